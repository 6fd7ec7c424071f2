// How much memory a browser's processes take, read from the system.
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Of Chromium's processes, by what they do, in resident bytes: `{ renderer, gpu, browser, all }`; shared pages count in each. */
async function residentBytes(profile) {
  const { stdout } = await run("ps", ["-axo", "pid=,ppid=,rss=,args="], { maxBuffer: 64 * 2 ** 20 });
  const all = stdout.split("\n").flatMap((line) => {
    const [, pid, parent, kib, args] = /^\s*(\d+)\s+(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [];
    return pid === undefined ? [] : [{ pid, parent, bytes: Number(kib) * 1024, args }];
  });
  const family = new Set(all.filter(({ args }) => args.includes(profile)).map(({ pid }) => pid));
  for (let size = -1; size !== family.size; ) {
    size = family.size;
    for (const { pid, parent } of all) if (family.has(parent)) family.add(pid);
  }
  const sum = { renderer: 0, gpu: 0, browser: 0, all: 0 };
  for (const { pid, bytes, args } of all) {
    if (!family.has(pid)) continue;
    const type = /--type=([\w-]+)/.exec(args)?.[1];
    sum.all += bytes;
    if (type === "renderer") sum.renderer += bytes;
    else if (type === "gpu-process") sum.gpu += bytes;
    else if (type === undefined) sum.browser += bytes;
  }
  return sum;
}

/** Looks five times a second at the browser whose profile lies in this folder, and keeps the largest numbers. */
export class MemoryWatch {
  #profile;
  #peak;
  #stopped = false;
  #watching;

  constructor(profile) {
    this.#profile = profile;
    this.#watching = this.#watch();
  }

  async #watch() {
    while (!this.#stopped) {
      await this.#look();
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  async #look() {
    const now = await residentBytes(this.#profile);
    const before = this.#peak ?? now;
    this.#peak = Object.fromEntries(Object.entries(now).map(([key, bytes]) => [key, Math.max(bytes, before[key])]));
  }

  /** The peaks since the last call. */
  async take() {
    await this.#look();
    const peak = this.#peak;
    this.#peak = undefined;
    return peak;
  }

  async stop() {
    this.#stopped = true;
    await this.#watching;
  }
}
