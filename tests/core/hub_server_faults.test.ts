/** Each way in which the hub that other tests download from can be made to fail. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  config,
  content,
  isContent,
  latest,
  listTree,
  receive,
  resolveUrl,
  startModelHub,
  unet,
} from "../support/hub_model.ts";
import { type Hub, type HubFault, type HubRequest, startHub } from "../support/hub_server.mjs";

let hub: Hub;
beforeAll(async () => {
  hub = await startModelHub();
});
afterAll(() => hub.close());
afterEach(() => {
  hub.clearFaults();
  hub.requests.length = 0;
});

const bytes = async (response: Response): Promise<Uint8Array> => new Uint8Array(await response.arrayBuffer());

describe("what can go wrong", () => {
  const ask = (range?: string, path = unet): Promise<Response> =>
    fetch(resolveUrl(hub, path), { headers: range === undefined ? {} : { range } });

  test("cut: the connection ends before a byte, once for each cut", async () => {
    const faults = [1_000_000, 400_000].map((cut) => hub.fault(unet, { cut }));
    expect(await receive(await ask())).toMatchObject({ got: { length: 400_000 }, whole: false });
    expect(await receive(await ask("bytes=400000-"))).toMatchObject({ got: { length: 600_000 }, whole: false });
    const rest = await receive(await ask("bytes=1000000-"));
    expect([rest.whole, isContent(rest.got, unet, 1_000_000)]).toEqual([true, true]);
    expect(faults.map(({ hits }) => hits)).toEqual([1, 1]);
    expect(hub.requests.filter(({ kind }) => kind === "cdn").map(({ sent, ended }) => [sent, ended])).toEqual([
      [400_000, false],
      [600_000, false],
      [500_000, true],
    ]);
  });

  test("cut at the very start: headers, but no byte", async () => {
    hub.fault(unet, { cut: 0 });
    expect(await receive(await ask())).toMatchObject({ got: { length: 0 }, whole: false });
  });

  test("cut_each: after so many bytes of an answer", async () => {
    const fault = hub.fault(unet, { cut_each: 100_000, times: 2 });
    expect((await receive(await ask())).got).toHaveLength(100_000);
    expect((await receive(await ask("bytes=100000-"))).got).toHaveLength(100_000);
    expect((await receive(await ask("bytes=200000-"))).got).toHaveLength(1_300_000);
    expect(fault.hits).toBe(2);
  });

  test("stall: stops until released", async () => {
    const fault = hub.fault(unet, { stall: 300_000 });
    const response = await ask();
    const reading = receive(response);
    await fault.hit;
    expect(hub.requests.at(-1)).toMatchObject({ sent: 300_000, ended: false });
    fault.release();
    expect((await reading).whole).toBe(true);
  });

  test("stall: the client gives up", async () => {
    const fault = hub.fault(unet, { stall: 300_000 });
    const controller = new AbortController();
    const response = await fetch(resolveUrl(hub, unet), { signal: controller.signal });
    await fault.hit;
    controller.abort();
    await expect(bytes(response)).rejects.toThrow();
    expect((await receive(await ask())).whole).toBe(true);
  });

  test("corrupt: one byte is another", async () => {
    hub.fault(unet, { corrupt: 700_001 });
    const { got, whole } = await receive(await ask());
    const right = content(unet).slice();
    expect(whole).toBe(true);
    expect(got[700_001]).toBe(right[700_001]! ^ 0xff);
    right[700_001] = got[700_001]!;
    expect(Buffer.compare(got, right)).toBe(0);
    expect(isContent((await receive(await ask())).got, unet)).toBe(true);
  });

  test("slow: so many bytes per second", async () => {
    hub.fault(config, { slow: 9000 });
    const start = performance.now();
    expect(isContent((await receive(await ask(undefined, config))).got, config)).toBe(true);
    expect(performance.now() - start).toBeGreaterThan(180);
  });

  test.each([1_499_999, 1_500_003])("length: as if it had %s bytes", async (length) => {
    const fault = hub.fault(unet, { length });
    const response = await ask("bytes=1499990-");
    expect(response.headers.get("content-range")).toBe(`bytes 1499990-${length - 1}/${length}`);
    const { got, whole } = await receive(response);
    expect([got.length, whole]).toEqual([length - 1_499_990, true]);
    expect(isContent(got.subarray(0, 9), unet, 1_499_990, 1_499_999)).toBe(true);
    fault.remove();
    expect((await ask("bytes=1499990-")).headers.get("content-length")).toBe("10");
  });

  test("no_ranges: the whole file", async () => {
    hub.fault(unet, { no_ranges: true });
    const response = await ask("bytes=5-9");
    expect([response.status, response.headers.get("accept-ranges")]).toEqual([200, null]);
    expect(isContent(await bytes(response), unet)).toBe(true);
  });

  test("hide: neither there nor listed", async () => {
    hub.fault(/^unet\//, { hide: true });
    expect((await ask()).status).toBe(404);
    const listed = await listTree(hub, "main?recursive=true");
    expect(listed.filter(({ type, path }) => type === "file" && path.startsWith("unet/"))).toEqual([]);
    const response = await fetch(`${hub.url}/api/models/tests/model`);
    expect((await response.json()).siblings).toHaveLength(6);
  });

  test("expire: an address holds for so many uses", async () => {
    const fault = hub.fault(unet, { expire: 2 });
    const { headers } = await fetch(resolveUrl(hub, unet), { redirect: "manual" });
    const use = async (): Promise<number> => {
      const response = await fetch(headers.get("location")!, { headers: { range: "bytes=0-0" } });
      await response.body?.cancel();
      return response.status;
    };
    expect([await use(), await use(), await use()]).toEqual([206, 206, 403]);
    expect(fault.hits).toBe(1);
    expect((await ask("bytes=0-0")).status).toBe(206);
  });

  test("addresses expire by the clock, too", async () => {
    const short = await startHub({
      repos: { "tests/model": { revisions: { main: latest }, commits: { [latest]: { "x.bin": "x" } } } },
      signedFor: 0,
    });
    expect((await fetch(`${short.url}/tests/model/resolve/main/x.bin`)).status).toBe(403);
    await short.close();
  });

  test.each<[string, HubFault, string, number[], HubRequest["kind"]]>([
    ["503 twice", { status: 503, times: 2 }, unet, [503, 503, 200], "resolve"],
    ["429", { status: 429, retry_after: 7 }, unet, [429, 200], "resolve"],
    ["500 where the bytes are", { status: 500, at: "content" }, unet, [500, 200], "cdn"],
    ["500 of a small file", { status: 500, at: "content" }, config, [500, 200], "cache"],
  ])("status: %s", async (name, fault, path, statuses, kind) => {
    hub.fault(path, fault);
    for (const [index, status] of statuses.entries()) {
      const response = await ask(undefined, path);
      await response.body?.cancel();
      expect(response.status).toBe(status);
      if (index === 0) expect(response.headers.get("retry-after")).toBe(name === "429" ? "7" : null);
    }
    expect(hub.requests.filter(({ status }) => status >= 400).every((request) => request.kind === kind)).toBe(true);
  });

  test.each([
    ["api:tree", "tree/main"],
    ["api:revision", "revision/main"],
    ["api:info", ""],
  ])("status: %s", async (target, path) => {
    hub.fault(target, { status: 502 });
    const url = `${hub.url}/api/models/tests/model/${path}`.replace(/\/$/, "");
    expect((await fetch(url)).status).toBe(502);
    expect((await fetch(url)).status).toBe(200);
  });

  test("reset: no answer", async () => {
    hub.fault(unet, { reset: true });
    await expect(ask()).rejects.toThrow("fetch failed");
    expect((await ask()).status).toBe(200);
  });

  test("hold: an answer when released", async () => {
    const fault = hub.fault(unet, { hold: true, at: "content" });
    let answered = false;
    const response = ask("bytes=0-0").then(({ status }) => {
      answered = true;
      return status;
    });
    await fault.hit;
    // The hub answers others meanwhile.
    expect((await ask(undefined, config)).status).toBe(200);
    expect(answered).toBe(false);
    fault.release();
    expect(await response).toBe(206);
  });

  test("offline: connections are cut and refused; then all is as before", async () => {
    const fault = hub.fault(unet, { stall: 500_000 });
    const reading = receive(await ask());
    await fault.hit;
    const address = hub.url;
    await hub.offline();
    expect(await reading).toMatchObject({ got: { length: 500_000 }, whole: false });
    await expect(ask()).rejects.toThrow("fetch failed");
    await hub.online();
    expect(hub.url).toBe(address);
    expect(isContent(await bytes(await ask()), unet)).toBe(true);
  });

  test("a fault is one of a kind", () => {
    expect(() => hub.fault(unet, { cut: 1, stall: 2 } as HubFault)).toThrow("not cut and stall");
    expect(() => hub.fault(unet, {} as HubFault)).toThrow("not none");
  });
});
