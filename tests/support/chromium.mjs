// Finds a Chromium that the browser tests can use, or gets one. Plain JavaScript without dependencies: the scripts in
// .ci run it as it is.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { homedir, platform } from "node:os";
import { delimiter, join } from "node:path";

const VARIABLES = ["CHROMIUM_PATH", "PLAYWRIGHT_CHROMIUM_EXECUTABLE_PATH"];
const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge"];
/** WebGPU on SwiftShader works from about here; an older one would fail in ways that are hard to read. */
const OLDEST = 128;

/** @param {string} name */
function onPath(name) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).find((file) => existsSync(file));
}

/** Where Playwright puts the browsers that it downloads, newest first. */
function playwrightCache() {
  const root =
    process.env.PLAYWRIGHT_BROWSERS_PATH ??
    {
      darwin: join(homedir(), "Library", "Caches", "ms-playwright"),
      win32: join(process.env.LOCALAPPDATA ?? homedir(), "ms-playwright"),
    }[platform()] ??
    join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "ms-playwright");
  if (!existsSync(root)) return [];
  const revision = (/** @type {string} */ folder) => Number(folder.split("-")[1]);
  const inside = [
    ["chrome-linux64", "chrome"],
    ["chrome-linux", "chrome"],
    ["chrome-win64", "chrome.exe"],
    ["chrome-win", "chrome.exe"],
    ...["chrome-mac-arm64", "chrome-mac-x64", "chrome-mac"].flatMap((folder) => [
      [folder, "Google Chrome for Testing.app", "Contents", "MacOS", "Google Chrome for Testing"],
      [folder, "Chromium.app", "Contents", "MacOS", "Chromium"],
    ]),
  ];
  return readdirSync(root)
    .filter((folder) => /^chromium-\d+$/.test(folder))
    .sort((a, b) => revision(b) - revision(a))
    .flatMap((folder) => inside.map((path) => join(root, folder, ...path)))
    .filter((file) => existsSync(file));
}

function usualPlaces() {
  if (platform() === "darwin") {
    return ["Chromium", "Google Chrome", "Microsoft Edge"].flatMap((name) =>
      ["/Applications", join(homedir(), "Applications")].map((root) => `${root}/${name}.app/Contents/MacOS/${name}`),
    );
  }
  if (platform() === "win32") {
    const roots = ["PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"].map((name) => process.env[name] ?? "");
    const ends = ["Google\\Chrome\\Application\\chrome.exe", "Microsoft\\Edge\\Application\\msedge.exe"];
    return roots.filter((root) => root !== "").flatMap((root) => ends.map((end) => join(root, end)));
  }
  return ["/usr/lib/chromium/chromium", "/opt/google/chrome/chrome", "/snap/bin/chromium"];
}

/**
 * Says why a browser cannot be used; undefined when it can. It is started: a distribution's stand-in for a package that
 * is not installed, or a browser whose libraries are missing, looks like any other file.
 * @param {string} file
 * @returns {string | undefined}
 */
function fault(file) {
  if (!existsSync(file)) return "there is no such file";
  // On Windows, `--version` opens a window and prints nothing.
  if (platform() === "win32") return undefined;
  const { status, stdout, stderr } = spawnSync(file, ["--version"], { encoding: "utf8", timeout: 30_000 });
  const version = /\b(\d+)\.\d+\.\d+/.exec(stdout ?? "")?.[1];
  if (status !== 0 || version === undefined) {
    return `it does not start${stderr ? `: ${stderr.trim().split("\n")[0]}` : ""}`;
  }
  return Number(version) < OLDEST ? `it is version ${version}, at least ${OLDEST} is needed` : undefined;
}

/**
 * The browser that is there: named by a variable of the environment, else installed, else in Playwright's cache.
 * @param {(line: string) => void} [log] hears why a browser was passed over
 * @returns {string | undefined}
 */
export function findChromium(log = () => {}) {
  for (const name of VARIABLES) {
    const file = process.env[name];
    if (file === undefined || file === "") continue;
    const wrong = fault(file);
    if (wrong === undefined) return file;
    log(`${name} names ${file}, but ${wrong}.`);
  }
  const installed = NAMES.map(onPath).filter((file) => file !== undefined);
  for (const file of [...installed, ...usualPlaces().filter((place) => existsSync(place)), ...playwrightCache()]) {
    const wrong = fault(file);
    if (wrong === undefined) return file;
    log(`Passing over ${file}: ${wrong}.`);
  }
  return undefined;
}

/**
 * Runs a command that may take long, showing what it prints.
 * @param {(line: string) => void} log
 * @param {string} command
 * @param {string[]} args
 * @param {number} seconds
 */
function attempt(log, command, args, seconds) {
  log(`$ ${[command === process.execPath ? "node" : command, ...args].join(" ")}`);
  const { status, error } = spawnSync(command, args, {
    stdio: ["ignore", "inherit", "inherit"],
    timeout: seconds * 1000,
    killSignal: "SIGKILL",
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  });
  if (status === 0) return true;
  log(`  failed: ${error?.message ?? `exit code ${status}`}`);
  return false;
}

/**
 * The browser that is there, or one fetched now: by Playwright, else by apt-get when this is root.
 * @param {(line: string) => void} [log]
 * @returns {string | undefined}
 */
export function getChromium(log = console.log) {
  const found = findChromium(log);
  if (found !== undefined) return found;
  log("No Chromium found. Getting one:");
  const playwright = join("node_modules", "playwright", "cli.js");
  if (existsSync(playwright)) {
    attempt(log, process.execPath, [playwright, "install", "--no-shell", "chromium"], 180);
    const downloaded = findChromium(log);
    if (downloaded !== undefined) return downloaded;
  }
  if (process.getuid?.() === 0 && onPath("apt-get") !== undefined) {
    const install = ["install", "-y", "--no-install-recommends", "chromium"];
    // Without the second try, a fresh container has no package lists.
    if (!attempt(log, "apt-get", install, 180)) {
      attempt(log, "apt-get", ["update"], 60);
      attempt(log, "apt-get", install, 180);
    }
    const installed = findChromium(log);
    if (installed !== undefined) return installed;
    // Where `chromium` is no package, Playwright's download may lack only its libraries.
    if (existsSync(playwright)) attempt(log, process.execPath, [playwright, "install-deps", "chromium"], 180);
    const completed = findChromium(log);
    if (completed !== undefined) return completed;
  }
  log(
    [
      "The browser tests need Chromium or Chrome, and there was no way to get one. Do one of these:",
      "  - install Chromium or Google Chrome, so that `chromium` or `google-chrome` is found;",
      "  - run `npx playwright install --with-deps chromium`;",
      "  - set CHROMIUM_PATH to the browser's program file.",
    ].join("\n"),
  );
  return undefined;
}
