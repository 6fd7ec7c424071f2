import { spawn } from "node:child_process";
import { once } from "node:events";
import { createHash } from "node:crypto";
import { openSource } from "@diffusers-web/core";
import { openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import { readdirSync, readFileSync, rmSync, mkdtempSync } from "node:fs";
import { test } from "vitest";
import { startHub } from "../support/hub_server.mjs";
test("python at once", async () => {
  const size = 200_000_000;
  const big = new Uint8Array(size).map((_, i) => (i * 2654435761) >>> 13);
  const c = "4".repeat(40);
  const hub = await startHub({ repos: { "a/b": { revisions: { main: c }, commits: { [c]: { "w.safetensors": big, "config.json": "{}" } } } } });
  for (let round = 0; round < 3; round++) {
    const dir = mkdtempSync("/tmp/i4_both");
    const py = spawn("/work/venv/bin/python", ["-c", `
from huggingface_hub import snapshot_download
import time; t=time.time(); snapshot_download("a/b", cache_dir="${dir}", endpoint="${hub.url}"); print("py", time.time()-t)`], { stdio: ["ignore", "inherit", "ignore"], env: { ...process.env, HF_HUB_DISABLE_XET: "1" } });
    const done = once(py, "exit");
    await new Promise((r) => setTimeout(r, 300 + round * 300));
    const t = Date.now();
    const src = await openSource("a/b", { endpoint: hub.url, cache_dir: dir });
    await src.prefetch!(["w.safetensors", "config.json"]);
    console.log("ours", (Date.now() - t) / 1000);
    await done;
    const f = (await src.open("w.safetensors"))!;
    console.log(f.size === size, Buffer.compare(f.readSync(0, size), big) === 0, readdirSync(dir + "/models--a--b/blobs"), hub.requests.filter((r) => r.kind === "cdn").length);
    f.close();
    hub.requests.length = 0;
    rmSync(dir, { recursive: true });
  }
  await hub.close();
}, 300_000);
test("speed", async () => {
  const dir = mkdtempSync("/tmp/i4_speed");
  const store = await openNodeStore({ cache_dir: dir });
  const key = { endpoint: "x", repo: "a/b", commit: "5".repeat(40), path: "w" };
  const chunk = new Uint8Array(65536).fill(7);
  const part = Array.from({ length: 1024 }, () => chunk);
  const p = await store.begin(key, { path: "w", size: 16 * 64 * 2 ** 20 });
  const t = performance.now();
  for (let i = 0; i < 16; i++) await p.append(part, new Uint8Array(100));
  console.log("1 GiB in 16 parts", performance.now() - t, "ms");
  await p.complete();
  const f = (await store.open(key))!;
  const r = performance.now();
  for (let i = 0; i < 16; i++) f.readSync(i * 2 ** 26, (i + 1) * 2 ** 26);
  console.log("read", performance.now() - r, "ms");
  f.close();
  rmSync(dir, { recursive: true });
}, 300_000);
