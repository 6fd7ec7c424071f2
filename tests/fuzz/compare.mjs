// Makes the calls of tests/fuzz/make_cases.py on WASM, and compares their latents with Python's:
//
//   npm run fuzz -- FOLDER              all of them
//   npm run fuzz -- FOLDER 7 12         some of them
import { createServer } from "vite";

const [folder, ...names] = process.argv.slice(2);
if (folder === undefined) {
  console.error("npm run fuzz -- FOLDER: the folder that tests/fuzz/make_cases.py wrote to.");
  process.exit(1);
}
const vite = await createServer({ root: ".", logLevel: "error", server: { middlewareMode: true, watch: null } });
try {
  const { compareCases } = await vite.ssrLoadModule("/tests/fuzz/compare.ts");
  process.exitCode = (await compareCases(folder, names)) === 0 ? 0 : 1;
} finally {
  await vite.close();
}
