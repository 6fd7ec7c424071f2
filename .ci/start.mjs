// `npm start`: the demo page, served from the sources. Arguments go to Vite: `npm start -- --host --port 8080`.
import { spawn } from "node:child_process";
import { setUp } from "./setup.mjs";

setUp();
const vite = spawn(process.execPath, ["node_modules/vite/bin/vite.js", ...process.argv.slice(2)], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => vite.kill(signal));
vite.on("exit", (code) => process.exit(code ?? 0));
