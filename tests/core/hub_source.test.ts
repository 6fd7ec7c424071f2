/** A repository of a hub on this machine, as a source: resolved once, downloaded once, read without the hub afterwards. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  IntegrityError,
  type LoadOptions,
  type LoadStep,
  ModelNotFoundError,
  openSource,
  type Source,
  subSource,
  ValueError,
} from "@diffusers-web/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { hubSource } from "../../packages/core/src/hub/hub_source.ts";
import { NodeStore } from "../../packages/core/src/hub/node_store.ts";
import { type Hub, startHub } from "../support/hub_server.mjs";
import { ManualTiming } from "../support/manual_timing.ts";

const [first, second] = ["a".repeat(40), "b".repeat(40)] as const;
const repo = "owner/name";
const bytes = (size: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => (i * seed + (i >> 8)) % 256);
const files: Record<string, string | Uint8Array> = {
  "model_index.json": "{}",
  "empty.txt": "",
  "unet/config.json": `{ "sample_size": 8 }`,
  "unet/diffusion_pytorch_model.safetensors": bytes(50_000, 3),
  "vae/diffusion_pytorch_model.safetensors": bytes(20_000, 5),
  "text_encoder/model.safetensors": bytes(30_000, 7),
  "text_encoder/model.fp16.safetensors": bytes(15_000, 11),
};
const weights = Object.keys(files).filter((path) => path.endsWith(".safetensors"));
const all = Object.keys(files).sort();

let hub: Hub;
let timing: ManualTiming;
let cache_dir: string;

beforeAll(async () => {
  hub = await startHub({
    pageSize: 3,
    repos: {
      [repo]: {
        revisions: { main: first, fp32: second, "refs/pr/1": second },
        commits: { [first]: files, [second]: { ...files, "unet/config.json": "{}" } },
      },
      "owner/gated": { gated: true, revisions: { main: first }, commits: { [first]: files } },
      "owner/private": { private: true, revisions: { main: first }, commits: { [first]: files } },
      gpt2: { revisions: { main: first }, commits: { [first]: files } },
    },
    tokens: { hf_test: true, hf_other: [] },
  });
});
afterAll(() => hub.close());
beforeEach(async () => {
  await hub.online();
  hub.requests.length = 0;
  timing = new ManualTiming();
  cache_dir = mkdtempSync(join(tmpdir(), "hub-source-"));
});
afterEach(() => {
  hub.clearFaults();
  hub.setRevision(repo, "main", first);
  rmSync(cache_dir, { recursive: true });
  expect(timing.pending).toBe(0);
});

const source = (options: LoadOptions = {}, id = repo): Source =>
  hubSource(id, { endpoint: hub.url, cache_dir, ...options }, timing.policy);
const kinds = (): string[] => hub.requests.map(({ kind }) => kind);
const resolved = (): string[] => hub.requests.filter(({ kind }) => kind === "resolve").map(({ file }) => file!);
const errorOf = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => new Error("it worked"),
    (reason: Error) => reason,
  );
/** Something that a test waits for. */
function event(): { happened: Promise<void>; happen(): void } {
  let happen: () => void = () => undefined;
  const happened = new Promise<void>((resolve) => {
    happen = resolve;
  });
  return { happened, happen };
}
async function contentOf(from: Source, path: string): Promise<string | undefined> {
  const file = await from.open(path);
  const read = file && Buffer.from(file.readSync(0, file.size)).toString("latin1");
  file?.close();
  return read;
}
const expected = (path: string): string => Buffer.from(files[path] as string).toString("latin1");

describe("what there is", () => {
  test("all files, with sizes and hashes, page by page", async () => {
    const listed = await source().list!();
    expect(listed.map(({ path }) => path).sort()).toEqual(all);
    for (const { path, size, sha256, oid } of listed) {
      expect(size, path).toBe(files[path]!.length);
      expect(oid, path).toMatch(/^[0-9a-f]{40}$/);
      if (path.endsWith(".safetensors")) expect(sha256, path).toMatch(/^[0-9a-f]{64}$/);
      else expect(sha256, path).toBeUndefined();
    }
    expect(kinds()[0]).toBe("api:revision");
    // Files and folders, three to a page.
    expect(kinds().slice(1)).toEqual(Array<string>(Math.ceil((all.length + 3) / 3)).fill("api:tree"));
  });

  test.each([
    [repo, {}, "main"],
    [repo, { revision: "refs/pr/1" }, "refs/pr/1"],
    ["gpt2", {}, "main"],
  ])("%s %j", async (id, options, revision) => {
    await source(options, id).list!();
    expect(hub.requests[0]).toMatchObject({ kind: "api:revision", repo: id, revision });
  });

  test("a commit needs no resolving", async () => {
    expect(await contentOf(source({ revision: second }), "unet/config.json")).toBe("{}");
    expect(kinds()).not.toContain("api:revision");
  });

  test("what is not listed is not asked for", async () => {
    const from = source();
    await from.list!();
    hub.requests.length = 0;
    for (const path of ["none.json", "unet", "../x", "/x"]) expect(await from.open(path)).toBeUndefined();
    expect(hub.requests).toEqual([]);
    await expect(from.prefetch!(["model_index.json", "none.json"])).rejects.toThrow(/no file none\.json/);
    expect(hub.requests).toEqual([]);
  });

  test("openSource and subSource", async () => {
    const from = await openSource(repo, { endpoint: `${hub.url}/`, cache: false });
    expect(from.name).toBe(repo);
    const unet = subSource(from, "unet");
    expect((await unet.list!()).map(({ path }) => path)).toEqual([
      "config.json",
      "diffusion_pytorch_model.safetensors",
    ]);
    expect(await contentOf(unet, "config.json")).toBe(expected("unet/config.json"));
  });

  test("options that contradict each other", () => {
    expect(() => source({ force_download: true, local_files_only: true })).toThrow(ValueError);
  });
});

describe("what cannot be had", () => {
  test.each([
    ["no such repository", "owner/none", {}, /owner\/none.*no such repository.*token/],
    ["the same with a token", "owner/none", { token: "hf_test" }, /no model repository owner\/none/],
    ["a private one", "owner/private", {}, /owner\/private.*private.*pass \{ token \}/],
    ["no such revision", repo, { revision: "next" }, /owner\/name has no branch, tag or commit "next"/],
    ["a branch that is a variant now", repo, { revision: "fp16" }, /pass \{ variant: "fp16" \}/],
    ["no such commit", repo, { revision: "c".repeat(40) }, /no branch, tag or commit "c+"/],
    ["a token that is none", repo, { token: "hf_wrong" }, /HTTP 401.*token/],
    ["a gated one", "owner/gated", {}, /owner\/gated is gated\. Accept its licence at http.*pass \{ token \}/],
    ["a gated one, with another's token", "owner/gated", { token: "hf_other" }, /is gated.*no access yet/],
  ] satisfies [string, string, LoadOptions, RegExp][])("%s", async (_, id, options, message) => {
    const error = await errorOf(source(options, id).open("model_index.json"));
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error.message).toMatch(message);
    expect(timing.waits).toEqual([]);
  });

  test("with the right token", async () => {
    for (const id of ["owner/gated", "owner/private"]) {
      expect(await contentOf(source({ token: "hf_test" }, id), weights[0]!)).toBe(expected(weights[0]!));
    }
    expect(hub.leaks).toEqual([]);
  });

  test.each(["api:revision", "api:tree"])("%s: fails a while", async (target) => {
    hub.fault(target, { status: 503, times: 2 });
    expect(await source().list!()).toHaveLength(all.length);
    expect(timing.waits).toEqual([750, 1500]);
  });

  test.each([
    [503, /answered 503 .*Try again later/],
    [429, /answered 429 .*Try again later/],
  ])("%i for ever", async (status, message) => {
    hub.fault("api:revision", { status, times: 1000 });
    const error = await errorOf(source().list!());
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error.message).toMatch(message);
    expect(hub.requests).toHaveLength(timing.policy.firstTries);
  });

  test("a login page in place of the hub", async () => {
    const login: typeof fetch = async () => new Response("<html>Welcome to our Wi-Fi</html>");
    const error = await errorOf(source({ fetch: login }).list!());
    expect(error).toBeInstanceOf(IntegrityError);
    expect(error.message).toMatch(/login/);
  });

  test("the next page of a list at another address: it does not get the token", async () => {
    const asked: [string, string | null][] = [];
    const page: typeof fetch = async (input, init) => {
      asked.push([String(input), new Headers(init?.headers).get("authorization")]);
      const link: Record<string, string> =
        asked.length > 1 ? {} : { link: '<https://elsewhere.example/page2>; rel="next"' };
      return Response.json([], { headers: link });
    };
    await source({ fetch: page, token: "hf_test", revision: first }).list!();
    expect(asked.map(([, token]) => token)).toEqual(["Bearer hf_test", null]);
  });
});

describe("downloads", () => {
  test("several at once, the largest first, each once", async () => {
    const held = hub.fault(/\.(json|txt|safetensors)$/, { hold: true, times: 1000 });
    const done = source().prefetch!([...all, ...weights]);
    await expect.poll(resolved).toHaveLength(timing.policy.parallel);
    expect(resolved().sort()).toEqual([...weights].sort());
    held.remove();
    await done;
    expect(resolved().sort()).toEqual(all.filter((path) => files[path] !== ""));
  });

  test("opened without prefetch; and a second load asks nothing", async () => {
    for (const path of all) expect(await contentOf(source(), path), path).toBe(expected(path));
    hub.requests.length = 0;
    await hub.offline();
    for (const options of [{}, { local_files_only: true }]) {
      const again = source(options);
      expect(await again.list!()).toHaveLength(all.length);
      await again.prefetch!(all);
      for (const path of all) expect(await contentOf(again, path), path).toBe(expected(path));
    }
    expect(hub.requests).toEqual([]);
  });

  test("all files are of one commit, also when the branch moves meanwhile; force_download asks anew", async () => {
    const from = source();
    await from.list!();
    hub.setRevision(repo, "main", second);
    expect(await contentOf(from, "unet/config.json")).toBe(expected("unet/config.json"));
    expect(await contentOf(source(), "unet/config.json")).toBe(expected("unet/config.json"));
    expect(await contentOf(source({ force_download: true }), "unet/config.json")).toBe("{}");
    expect(await contentOf(source(), "unet/config.json")).toBe("{}");
  });

  test("force_download fetches again what is there, once", async () => {
    await source().prefetch!(weights);
    hub.requests.length = 0;
    const from = source({ force_download: true });
    await from.prefetch!(weights);
    for (const path of weights) expect(await contentOf(from, path)).toBe(expected(path));
    expect(resolved().sort()).toEqual([...weights].sort());
  });

  test("two at once: one downloads, the other waits", async () => {
    const steps: LoadStep[] = [];
    const one = source().prefetch!(weights, { progress_callback: (step) => void steps.push(step) });
    await Promise.all([
      one,
      source().prefetch!(weights),
      source()
        .open(weights[0]!)
        .then((file) => file!.close()),
    ]);
    expect(resolved().sort()).toEqual([...weights].sort());
  });

  test("in memory only", async () => {
    const from = source({ cache: false });
    await from.prefetch!(all);
    hub.requests.length = 0;
    for (const path of all) expect(await contentOf(from, path)).toBe(expected(path));
    await source({ cache: false }).list!();
    expect(kinds()[0]).toBe("api:revision");
  });

  test("one fails: the others stop, and what arrived of them is kept", async () => {
    const [unet, vae, encoder] = [weights[0]!, weights[1]!, weights[2]!];
    hub.fault(unet, { stall: 12_345 });
    const held = hub.fault(vae, { hold: true });
    const from = source();
    await from.list!();
    const missing = hub.fault(vae, { hide: true });
    const there = event();
    const progress_callback = ({ file, loaded }: LoadStep): void => {
      if (file === unet && loaded >= 12_345) there.happen();
    };
    const done = errorOf(from.prefetch!([unet, vae, encoder], { progress_callback }));
    await there.happened;
    await held.hit;
    held.remove();
    const error = await done;
    expect(error.message).toContain(`has no file ${vae}`);
    missing.remove();
    hub.requests.length = 0;
    expect(await contentOf(source(), unet)).toBe(expected(unet));
    const cdn = hub.requests.filter(({ kind }) => kind === "cdn");
    expect(cdn.map(({ headers }) => headers["range"])).toEqual(["bytes=12345-"]);
  });

  test("cancelled while it downloads: rejects with the reason, goes on from there", async () => {
    for (const path of weights) hub.fault(path, { stall: 10_007 });
    const counts = new Map<string, number>();
    const there = event();
    const progress_callback = ({ file, loaded }: LoadStep): void => {
      counts.set(file, loaded);
      if (weights.every((path) => (counts.get(path) ?? 0) >= 10_007)) there.happen();
    };
    const controller = new AbortController();
    const done = errorOf(source().prefetch!(weights, { signal: controller.signal, progress_callback }));
    await there.happened;
    const reason = new Error("enough");
    controller.abort(reason);
    expect(await done).toBe(reason);
    hub.requests.length = 0;
    await source().prefetch!(weights);
    const cdn = hub.requests.filter(({ kind }) => kind === "cdn");
    expect(cdn.map(({ headers }) => headers["range"])).toEqual(Array<string>(weights.length).fill("bytes=10007-"));
  });
});

describe("without a connection", () => {
  test("nothing is known of the model", async () => {
    await hub.offline();
    const error = await errorOf(source().open("model_index.json"));
    expect(error).toBeInstanceOf(ModelNotFoundError);
    expect(error.message).toMatch(/could not be reached/);
    expect(timing.waits).toHaveLength(timing.policy.firstTries - 1);
    await hub.online();
    expect((await source().open("model_index.json"))?.size).toBe(2);
  });

  test("some files are there: those open, the others say so", async () => {
    await source().prefetch!(["model_index.json"]);
    await hub.offline();
    const from = source();
    expect(await contentOf(from, "model_index.json")).toBe("{}");
    expect((await errorOf(from.open(weights[0]!))).message).toMatch(/could not be reached/);
  });

  test("local_files_only", async () => {
    const nothing = await errorOf(source({ local_files_only: true }).open("model_index.json"));
    expect(nothing).toBeInstanceOf(ModelNotFoundError);
    expect(nothing.message).toMatch(/owner\/name at main is not in the cache.*local_files_only/);
    await source().prefetch!(["model_index.json"]);
    hub.requests.length = 0;
    const from = source({ local_files_only: true });
    expect(await contentOf(from, "model_index.json")).toBe("{}");
    for (const missing of [from.open(weights[0]!), from.prefetch!([weights[0]!])]) {
      const error = await errorOf(missing);
      expect(error).toBeInstanceOf(ModelNotFoundError);
      expect(error).toMatchObject({ details: { file: weights[0] } });
      expect(error.message).toMatch(/not in the cache.*local_files_only/);
    }
    expect(hub.requests).toEqual([]);
  });
});

describe("cancelled while it asks", () => {
  test.each(["api:revision", "api:tree"])("%s", async (target) => {
    const held = hub.fault(target, { hold: true });
    const controller = new AbortController();
    const from = source();
    const done = errorOf(from.list!({ signal: controller.signal }));
    await held.hit;
    controller.abort();
    expect(await done).toBe(controller.signal.reason);
    held.remove();
    expect(await from.list!()).toHaveLength(all.length);
  });

  test("two wait for one answer: each cancels for itself", async () => {
    for (const leaver of [0, 1]) {
      const from = source({ cache: false });
      const held = hub.fault("api:tree", { hold: true });
      const controllers = [new AbortController(), new AbortController()];
      const lists = controllers.map(({ signal }) => from.list!({ signal }));
      const left = errorOf(lists[leaver]!);
      await held.hit;
      controllers[leaver]!.abort();
      expect(await left).toBe(controllers[leaver]!.signal.reason);
      const third = from.list!();
      held.remove();
      expect(await lists[1 - leaver]!).toHaveLength(all.length);
      expect(await third).toHaveLength(all.length);
      // Only when the one that asked has left does another ask.
      expect(kinds().filter((kind) => kind === "api:revision")).toHaveLength(leaver === 0 ? 2 : 1);
      hub.requests.length = 0;
    }
  });

  test("while the store is asked", async () => {
    const controller = new AbortController();
    vi.spyOn(NodeStore.prototype, "open").mockImplementationOnce(async () => controller.abort() as undefined);
    expect(await errorOf(source().open("empty.txt", controller))).toBe(controller.signal.reason);
  });

  test("before it began", async () => {
    const reason = new Error("no");
    const signal = AbortSignal.abort(reason);
    const from = source();
    for (const rejected of [from.list!({ signal }), from.open("x", { signal }), from.prefetch!([], { signal })]) {
      expect(await errorOf(rejected)).toBe(reason);
    }
    expect(hub.requests).toEqual([]);
  });
});
