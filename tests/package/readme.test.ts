import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const readme = readFileSync(join(root, "README.md"), "utf8");
// Inside the checkout, where the packages are found; ignored by git.
mkdirSync(join(root, "node_modules/.cache"), { recursive: true });
const folder = mkdtempSync(join(root, "node_modules/.cache/readme-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function blocks(text: string): string {
  return [...text.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]).join("\n");
}

test.each([
  ["Use it", blocks(readme.slice(0, readme.indexOf("## Guide")))],
  ["the guide", blocks(readme.slice(readme.indexOf("## Guide")))],
])("the code of %s is TypeScript that compiles, one block after the other", (_, code) => {
  expect(code).toContain("from_pretrained");
  writeFileSync(join(folder, "readme.ts"), code);
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      extends: join(root, "tsconfig.json"),
      // As an application's tsconfig would have it.
      compilerOptions: { isolatedDeclarations: false, declaration: false, noUncheckedIndexedAccess: false },
      include: ["readme.ts"],
    }),
  );
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  let output = "";
  try {
    output = execFileSync(process.execPath, [tsc, "-p", folder], { encoding: "utf8" });
  } catch (error) {
    output = (error as { stdout: string }).stdout;
  }
  expect(output).toBe("");
});
