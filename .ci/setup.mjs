// What `npm start`, `npm test` and `npm run build` do first, so that they work right after a clone.
// Node's own modules only, and syntax that an old Node can read: it has to get as far as the message.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root folder. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** As Vite wants it: 20.19 and later, 22.12 and later. */
function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19)) return;
  console.error(
    `diffusers-web needs Node 20.19 or later (20.x), or 22.12 or later; this is Node ${process.versions.node}.\n` +
      "Get a newer one from https://nodejs.org, or with `nvm install 22`, and run the command again.",
  );
  process.exit(1);
}

function packages(file) {
  return JSON.parse(readFileSync(file, "utf8")).packages;
}

/** True when node_modules holds what the lock file says. npm writes its own list there last, so half an install has none. */
function isInstalled() {
  const list = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(list)) return false;
  const installed = packages(list);
  return Object.entries(packages(join(root, "package-lock.json"))).every(
    ([path, { version, optional, link }]) =>
      !path.includes("node_modules/") || optional || link || installed[path]?.version === version,
  );
}

/** Checks Node's version and installs the dependencies when they are not there or not those of the lock file. */
export function setUp() {
  checkNode();
  process.chdir(root);
  if (isInstalled()) return;
  console.log("Installing dependencies (npm ci) ...");
  const { status } = spawnSync("npm", ["ci", "--no-progress"], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    shell: process.platform === "win32",
  });
  if (status === 0) return;
  console.error(
    "`npm ci` failed, see above. It needs the network once; behind a proxy, set npm's `registry` or `proxy`.",
  );
  process.exit(1);
}
