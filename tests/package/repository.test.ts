import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { repositoryFiles } from "./support.ts";

const files = repositoryFiles();
const lines = (file: string): number => readFileSync(file, "utf8").split("\n").length - 1;

test("the top level holds what it may hold", () => {
  const allowed = [
    ...["CHANGELOG.md", "LICENSE", "README.md", "demo", "package-lock.json", "package.json", "packages"],
    ...["playwright.config.ts", "tests", "tsconfig.json", "vite.config.ts"],
  ];
  const top = [...new Set(files.map((file) => file.split("/")[0]!))].filter((name) => !name.startsWith("."));
  expect(top.sort()).toEqual(allowed);
});

// Each written so that this file does not hold what it looks for.
test.each([
  ["a path of somebody's machine", /(?<![\w.~-])\/(?:work|root|home|Users)\/[\w.-]/],
  ["the address of a package registry", /https?:\/\/[^/\s"']*(?:registry|artifactory|nexus|pypi|npmjs)[^/\s"']*/],
])("no file names %s", (_, pattern) => {
  const found = files.flatMap((file) => {
    const match = pattern.exec(readFileSync(file, "latin1"));
    return match === null ? [] : [`${file}: ${match[0]}`];
  });
  expect(found).toEqual([]);
});

/** A file is about 400 lines at most; these are longer, each for its reason. */
const LIMIT = 410;
const long: Record<string, string> = {
  "demo/src/style.css": "the page's one sheet: colours and sizes are declared once, at its top",
  "tests/pipelines/loading.test.ts": "one served copy of a checkpoint, damaged in each way there is",
};

test("a file has at most about 400 lines", () => {
  const code = files.filter((file) => /\.(ts|mjs|py|css|html)$/.test(file) && !file.startsWith("demo/public/"));
  const tooLong = code.filter((file) => lines(file) > LIMIT && long[file] === undefined);
  expect(tooLong.map((file) => `${file}: ${lines(file)}`)).toEqual([]);
  expect(Object.keys(long).filter((file) => !files.includes(file) || lines(file) <= LIMIT)).toEqual([]);
});

test("the readme begins with the two commands", () => {
  const commands = [...readFileSync("README.md", "utf8").matchAll(/^```(?:sh|bash|console)\n(.*?)^```/gms)]
    .flatMap((block) => block[1]!.split("\n"))
    .map((line) => line.replace(/\s*#.*/, "").trim())
    .filter((line) => line !== "");
  expect(commands.slice(0, 2)).toEqual(["npm start", "npm test"]);
});

test("each package and the repository carry the licence that they name", () => {
  expect(readFileSync("LICENSE", "utf8")).toContain("Apache License");
  for (const file of [
    "package.json",
    ...["core", "models", "pipelines"].map((name) => `packages/${name}/package.json`),
  ]) {
    expect(JSON.parse(readFileSync(file, "utf8")).license).toBe("Apache-2.0");
  }
});
