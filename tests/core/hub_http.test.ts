/** Files below a base URL, over cuts and changes: as from any server, here the hub's `/resolve`. */
import { IntegrityError, type LoadStep } from "@diffusers-web/core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { HttpSource } from "../../packages/core/src/hub/http.ts";
import { type Hub, startHub } from "../support/hub_server.mjs";
import { ManualTiming } from "../support/manual_timing.ts";

const repo = "owner/name";
const path = "unet/w.safetensors";
const large = Uint8Array.from({ length: 100_003 }, (_, i) => (i * 7 + (i >> 8) * 13) % 256);
const [first, second] = ["a".repeat(40), "b".repeat(40)];

let hub: Hub;
let timing: ManualTiming;

beforeAll(async () => {
  hub = await startHub({ repos: {} });
});
afterAll(() => hub.close());
beforeEach(() => {
  timing = new ManualTiming();
  hub.requests.length = 0;
  hub.setRepo(repo, { revisions: { main: first! }, commits: { [first!]: { [path]: large } } });
});
afterEach(() => {
  hub.clearFaults();
  expect(timing.pending).toBe(0);
});

const open = (progress_callback?: (step: LoadStep) => void): ReturnType<HttpSource["open"]> => {
  const base = `${hub.url}/${repo}/resolve/main`;
  return new HttpSource(base, base, {}, timing.policy).open(path, { progress_callback });
};
const statuses = (): number[] => hub.requests.filter(({ kind }) => kind === "cdn").map(({ status }) => status);

test("a cut file goes on by range", async () => {
  hub.fault(path, { cut_each: 40_000, times: 1000 });
  const file = (await open())!;
  expect(Buffer.compare(file.readSync(0, file.size), large)).toBe(0);
  expect(statuses().length).toBeGreaterThan(2);
  expect(statuses()).toContain(206);
});

test("a file that changes between two tries is fetched from its start", async () => {
  const changed = large.map((byte) => byte ^ 1);
  const fault = hub.fault(path, { cut: 55_555 });
  void fault.hit.then(() =>
    hub.setRepo(repo, { revisions: { main: second! }, commits: { [second!]: { [path]: changed } } }),
  );
  const file = (await open())!;
  expect(Buffer.compare(file.readSync(0, file.size), changed)).toBe(0);
});

test("a file that is another one at each try: given up", async () => {
  let tries = 0;
  const restless: typeof fetch = async () => {
    let sent = false;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (sent) controller.error(new TypeError("terminated"));
        else controller.enqueue(large.slice(0, 5000));
        sent = true;
      },
    });
    return new Response(body, { headers: { etag: `"${tries++}"` } });
  };
  const from = new HttpSource(hub.url, hub.url, { fetch: restless }, timing.policy);
  await expect(from.open("x.bin")).rejects.toThrow(IntegrityError);
  expect(tries).toBe(timing.policy.firstTries);
});

test("silence: the next try goes on", async () => {
  hub.fault(path, { stall: 60_000 });
  let done: ReturnType<typeof open> | undefined;
  await new Promise<void>((resolve) => {
    done = open(({ loaded }) => loaded === 60_000 && resolve());
  });
  await timing.runOutOfPatience();
  const file = (await done)!;
  expect(Buffer.compare(file.readSync(0, file.size), large)).toBe(0);
});
