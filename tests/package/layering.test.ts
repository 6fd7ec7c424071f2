import { readFileSync } from "node:fs";
import { join } from "node:path/posix";
import { expect, test } from "vitest";
import { filesUnder } from "./support.ts";

interface Import {
  readonly file: string;
  readonly name: string;
  /** Evaluated when the file is: neither `import()` nor types only. */
  readonly atOnce: boolean;
}

/** Every module that a file names: imports, exports from, `import()`, also of types. */
function importsOf(file: string): Import[] {
  const text = readFileSync(file, "utf8");
  const statements = text.matchAll(/^\s*(?:import|export)\b(\s+type\b)?(?:[^"';]*?\bfrom)?\s*"([^"]+)"/gm);
  const calls = text.matchAll(/\b(?:import|nodeImport(?:<[^;]*?>)?)\(\s*(?:\/\*[^;]*?\*\/\s*)*"([^"]+)"/g);
  return [
    ...[...statements].map((match) => ({ file, name: match[2]!, atOnce: match[1] === undefined })),
    ...[...calls].map((match) => ({ file, name: match[1]!, atOnce: false })),
  ];
}

const isNode = (name: string): boolean => name.startsWith("node:");
const isOf = (name: string, allowed: readonly string[]): boolean =>
  allowed.some((one) => name === one || name.startsWith(`${one}/`));

/** What each part may import by name. Everything else of its own is relative. */
const layers: [part: string, folder: string, allowed: readonly string[]][] = [
  ["core", "packages/core/src", ["sharp", "@huggingface/hub", "client-zip", "hash-wasm", "idb-keyval"]],
  ["models", "packages/models/src", ["@diffusers-web/core", "onnxruntime-web"]],
  ["pipelines", "packages/pipelines/src", ["@diffusers-web/core", "@diffusers-web/models", "@huggingface", "comlink"]],
  ["demo", "demo/src", ["@diffusers-web/pipelines"]],
];

const sources = (folder: string): string[] => filesUnder(folder).filter((file) => file.endsWith(".ts"));

test("imports are found", () => {
  const names = importsOf("packages/core/src/index.ts").map(({ name }) => name);
  expect(names).toContain("./errors.ts");
  const found = importsOf("packages/core/src/configuration_utils.ts");
  expect(found).toContainEqual(expect.objectContaining({ name: "./python_json.ts", atOnce: true }));
});

test.each(layers)("%s imports only what lies below it", (part, folder, allowed) => {
  const foreign = sources(folder)
    .flatMap(importsOf)
    .filter(({ file, name }) => {
      // A document is no code: the demo shows the schedulers' table as it is written beside them.
      if (part === "demo" && name.endsWith(".md?raw")) return false;
      if (name.startsWith(".")) return !join(file, "..", name).startsWith(`${folder}/`);
      return !isOf(name, allowed) && !(part !== "demo" && isNode(name));
    });
  expect(foreign).toEqual([]);
});

test.each(layers)("%s declares what it imports", (part, folder) => {
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(join(folder, "../package.json"), "utf8"),
  );
  const undeclared = sources(folder)
    .flatMap(importsOf)
    .filter(
      ({ name }) =>
        !name.startsWith(".") &&
        !isNode(name) &&
        !isOf(name, Object.keys({ ...dependencies, ...optionalDependencies })),
    );
  expect(undeclared, part).toEqual([]);
});

test("only runtime/ort.ts imports onnxruntime-web", () => {
  const files = layers
    .flatMap(([, folder]) => sources(folder))
    .flatMap(importsOf)
    .filter(({ name }) => isOf(name, ["onnxruntime-web", "onnxruntime-common"]))
    .map(({ file }) => file);
  expect([...new Set(files)]).toEqual(["packages/models/src/runtime/ort.ts"]);
});

test("nothing of Node, and no heavy dependency, is imported at once", () => {
  const heavy = ["sharp", "onnxruntime-web", "@huggingface/transformers"];
  const atOnce = layers
    .flatMap(([, folder]) => sources(folder))
    .flatMap(importsOf)
    .filter(({ name, atOnce }) => atOnce && (isNode(name) || isOf(name, heavy)));
  expect(atOnce).toEqual([]);
});

test("relative imports name the file that is there", () => {
  const missing = layers
    .flatMap(([, folder]) => sources(folder))
    .flatMap(importsOf)
    .filter(({ name }) => name.startsWith(".") && !/\.(ts|css)$|\.ts\?|\.md\?raw$/.test(name));
  expect(missing).toEqual([]);
});
