// `npm test`: every check there is, one runner after the other, ending with the line `N passed, N failed`: the plain sum
// over all runners, where a check that is no test (lint, types, build, a package's publint) counts as one.
// `npm test -- lint types node browser`: only these runners. `npm test -- tensor demo`: only test files whose path has
// one of these words.
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getChromium } from "../tests/support/chromium.mjs";
import { setUp } from "./setup.mjs";

setUp();
const reports = mkdtempSync(join(tmpdir(), "diffusers-web-"));
process.on("exit", () => rmSync(reports, { recursive: true, force: true }));

let running;
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    end(running);
    process.exit(1);
  });
}

/** Ends a child and all that it has started. */
function end(child) {
  if (child === undefined) return;
  try {
    if (process.platform === "win32") child.kill("SIGKILL");
    else process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    // It ended by itself just now.
    if (error.code !== "ESRCH") throw error;
  }
}

/** Runs a program of node_modules; its exit code, or 1 when it took longer than it may. */
function node(file, args, { minutes = 5, env = {} } = {}) {
  return new Promise((resolve) => {
    running = spawn(process.execPath, [file, ...args], {
      stdio: ["ignore", "inherit", "inherit"],
      detached: process.platform !== "win32",
      env: { ...process.env, ...env },
    });
    const late = setTimeout(() => {
      console.error(`Stopped after ${minutes} minutes: ${file}`);
      end(running);
    }, minutes * 60_000);
    running.on("exit", (code) => {
      clearTimeout(late);
      running = undefined;
      resolve(code ?? 1);
    });
  });
}

/** One check that is no test. */
async function check(file, ...args) {
  const code = await node(file, args);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 };
}

/** A report that a runner should have written; undefined when it ended before that. */
function report(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    console.error(`No report from the runner: ${error.message}`);
    return undefined;
  }
}

async function vitest(project, files) {
  const file = join(reports, `${project}.json`);
  const args = ["run", "--project", project, "--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
  const code = await node("node_modules/vitest/vitest.mjs", [...args, ...files], { minutes: 14 });
  const result = report(file);
  const passed = result?.numPassedTests ?? 0;
  // A file that failed before its tests ran, in an import or a hook, counts as one.
  const broken = (result?.testResults ?? []).filter(
    (f) => f.status === "failed" && f.assertionResults.every((test) => test.status !== "failed"),
  );
  const failed = (result?.numFailedTests ?? 0) + broken.length;
  const skipped = (result?.numPendingTests ?? 0) + (result?.numTodoTests ?? 0);
  return { passed, failed: failed === 0 && code !== 0 ? 1 : failed, skipped };
}

async function playwright(files) {
  const cli = "node_modules/@playwright/test/cli.js";
  const file = join(reports, "browser.json");
  // Without a browser every test fails at once, which is the count that is wanted.
  const chromium = getChromium();
  const code = await node(cli, ["test", "--reporter=list,json", ...files], {
    minutes: 11,
    env: { PLAYWRIGHT_JSON_OUTPUT_FILE: file, ...(chromium === undefined ? {} : { CHROMIUM_PATH: chromium }) },
  });
  const { expected = 0, unexpected = 0, flaky = 0, skipped = 0 } = report(file)?.stats ?? {};
  // Tests that gave up on an earlier one's failure count as failed too when it is the browser that is missing.
  const failed = unexpected + flaky + (chromium === undefined ? skipped : 0);
  if (failed === 0 && code !== 0) return { passed: expected, failed: 1, skipped };
  if (chromium !== undefined) return { passed: expected, failed, skipped };
  return { passed: expected, failed, note: "no Chromium: install it, or set CHROMIUM_PATH (more above)" };
}

const publint = "node_modules/publint/src/cli.js";
const runners = {
  lint: () => check("node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."),
  types: () => check("node_modules/typescript/bin/tsc", "-p", "."),
  node: (files) => vitest("node", files),
  build: () => check(".ci/build.mjs"),
  "publint core": () => check(publint, "packages/core", "--strict"),
  "publint models": () => check(publint, "packages/models", "--strict"),
  "publint pipelines": () => check(publint, "packages/pipelines", "--strict"),
  package: (files) => vitest("package", files),
  browser: (files) => playwright(files),
};

/** What to run, as [name, files]: no files means all of them. */
function plan(words) {
  if (words.length === 0) return Object.keys(runners).map((name) => [name, []]);
  const isRunner = (word) => Object.keys(runners).some((name) => name.split(" ")[0] === word);
  const named = Object.keys(runners).filter((name) => words.includes(name.split(" ")[0]));
  const rest = words.filter((word) => !isRunner(word));
  const files = readdirSync("tests", { recursive: true })
    .map((file) => `tests/${file.replaceAll("\\", "/")}`)
    .filter((file) => /\.(test|spec)\.ts$/.test(file) && rest.some((word) => file.includes(word)));
  const owner = (file) => /^tests\/(package|browser)\//.exec(file)?.[1] ?? "node";
  const filtered = ["node", "package", "browser"].map((name) => [name, files.filter((file) => owner(file) === name)]);
  return [...named.map((name) => [name, []]), ...filtered.filter(([, list]) => list.length > 0)];
}

const results = [];
for (const [name, files] of plan(process.argv.slice(2))) {
  console.log(`\n=== ${name} ===`);
  const start = performance.now();
  const { passed, failed, skipped = 0, note } = await runners[name](files);
  const seconds = (performance.now() - start) / 1000;
  if (passed + failed === 0) console.error(`${name} ran nothing, which counts as failed.`);
  results.push({ name, passed, failed: passed + failed === 0 ? 1 : failed, skipped, seconds, note });
}
if (results.length === 0) {
  console.error(`No runner and no test file is called that. Runners: ${Object.keys(runners).join(", ")}.`);
  results.push({ name: "nothing to run", passed: 0, failed: 1, skipped: 0, seconds: 0 });
}

console.log("");
for (const { name, passed, failed, skipped, seconds, note } of results) {
  const more = skipped > 0 ? `, ${skipped} skipped` : "";
  const end = note === undefined ? "" : ` - ${note}`;
  console.log(`${name.padEnd(18)} ${passed} passed, ${failed} failed${more} (${seconds.toFixed(1)} s)${end}`);
}
const sum = (key) => results.reduce((total, result) => total + result[key], 0);
process.exitCode = sum("failed") > 0 ? 1 : 0;
console.log(`\n${sum("passed")} passed, ${sum("failed")} failed`);
