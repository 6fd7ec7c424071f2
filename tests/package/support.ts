import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Rolldown } from "vite";

/** The packages, lowest first. */
export const packages = ["core", "models", "pipelines"] as const;

/** All files under a folder, as paths from the repository's root with forward slashes, in alphabetical order. */
export function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).replaceAll("\\", "/"))
    .sort();
}

/** The files that are, or would be, in the repository: what git tracks and what it does not ignore. */
export function repositoryFiles(): string[] {
  const options = { encoding: "utf8", maxBuffer: 1 << 26 } as const;
  const listed = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "-z"], options).split("\0");
  const deleted = new Set(execFileSync("git", ["ls-files", "-d", "-z"], options).split("\0"));
  return listed.filter((file) => file !== "" && !deleted.has(file));
}

/**
 * What a bundler makes of a line of code that uses the built packages: as modules, what a page loads before it calls
 * anything (what is imported when it is needed lies in chunks of its own); as one script, all of it.
 */
export async function bundle(code: string, output: { format: "es" | "iife"; minify: boolean }): Promise<string> {
  const entry = "\0entry";
  const isScript = output.format === "iife";
  const result = (await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      minify: output.minify,
      target: "es2022",
      rolldownOptions: {
        input: "entry",
        // A script cannot import.
        external: [/^node:/, "sharp", /^onnxruntime-web/, ...(isScript ? [] : [/^@huggingface\//])],
        preserveEntrySignatures: "strict",
        output: { format: output.format, name: "bundled", codeSplitting: !isScript },
      },
    },
    plugins: [
      {
        name: "entry",
        resolveId: (id: string) => (id === "entry" ? entry : undefined),
        load: (id: string) => (id === entry ? code : undefined),
      },
    ],
  })) as Rolldown.RolldownOutput;
  const chunks = new Map(result.output.filter((one) => one.type === "chunk").map((one) => [one.fileName, one]));
  const first = new Set([result.output[0].fileName]);
  for (const name of first) for (const imported of chunks.get(name)?.imports ?? []) first.add(imported);
  return [...first].map((name) => chunks.get(name)?.code ?? "").join("\n");
}

/** How many bytes a text takes when it is sent gzipped. */
export function gzipped(text: string): number {
  return gzipSync(text).byteLength;
}
