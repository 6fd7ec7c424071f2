// `npm run build`: packages/*/dist (ES modules and types) and demo/dist. `npm run build -- packages`: without the demo.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, setUp } from "./setup.mjs";

setUp();
const { build } = await import("vite");

/** In the order of their dependencies: each is typed against the built types of those before it. */
const PACKAGES = ["core", "models", "pipelines"];

/** What a page's worker starts with, in pipelines: nothing imports it. */
const SCRIPT = "worker/script";

function entriesOf(folder) {
  return ["index", SCRIPT].map((name) => join(folder, "src", `${name}.ts`)).filter((file) => existsSync(file));
}

/**
 * Vite would bundle a worker's script, with all that it imports, into one file. Published is what stands in the source: who
 * bundles the package bundles the script as well.
 */
const workerScript = {
  name: "worker-script",
  enforce: "pre",
  transform: (code, id) => (id.endsWith("/worker/start.ts") ? replaced(code, scriptUrl("ts"), "WORKER_SCRIPT") : null),
  renderChunk: (code) => replaced(code, "WORKER_SCRIPT", scriptUrl("js")),
};

function scriptUrl(extension) {
  return `new URL("./script.${extension}", import.meta.url)`;
}

/** Lines stay what they are, and so does the source map. */
function replaced(code, from, to) {
  return code.includes(from) ? { code: code.replace(from, to), map: null } : null;
}

function declarations(folder) {
  const { status } = spawnSync(
    process.execPath,
    ["node_modules/typescript/bin/tsc", "-p", join(folder, "tsconfig.build.json")],
    { cwd: root, stdio: ["ignore", "inherit", "inherit"] },
  );
  if (status !== 0) process.exit(1);
  // TypeScript leaves `./x.ts` in declarations as it stands; what is published is `./x.js`.
  const dist = join(folder, "dist");
  for (const name of readdirSync(dist, { recursive: true })) {
    if (!name.endsWith(".d.ts")) continue;
    const file = join(dist, name);
    writeFileSync(file, readFileSync(file, "utf8").replace(/((?:from |import\()"\.{1,2}\/[^"]+)\.ts"/g, '$1.js"'));
  }
}

for (const name of PACKAGES) {
  const folder = join(root, "packages", name);
  rmSync(join(folder, "dist"), { recursive: true, force: true });
  await build({
    configFile: false,
    root: folder,
    logLevel: "warn",
    build: {
      target: "es2022",
      minify: false,
      sourcemap: true,
      reportCompressedSize: false,
      lib: { entry: entriesOf(folder), formats: ["es"] },
      rolldownOptions: {
        checks: { pluginTimings: false },
        // Everything that is imported by name is the user's to install and to bundle.
        external: (id) => !/^[./]|^[A-Za-z]:[\\/]|^\0/.test(id),
        // A file each, so that whoever takes one scheduler gets one scheduler.
        output: { preserveModules: true, preserveModulesRoot: join(folder, "src"), entryFileNames: "[name].js" },
      },
    },
    plugins: [workerScript],
  });
  declarations(folder);
  copyFileSync(join(root, "LICENSE"), join(folder, "LICENSE"));
  console.log(`built packages/${name}/dist`);
}

if (process.argv[2] !== "packages") {
  await build({ configFile: join(root, "vite.config.ts"), logLevel: "warn" });
  console.log("built demo/dist");
}
