/** Files from servers that misbehave (on this machine), and from folders. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import {
  IntegrityError,
  type LoadOptions,
  type LoadStep,
  ModelNotFoundError,
  type OpenOptions,
  openSource,
  readText,
  type Source,
  subSource,
} from "@diffusers-web/core";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { HttpSource } from "../../packages/core/src/hub/http.ts";
import { defaultPolicy } from "../../packages/core/src/hub/retry.ts";

const body = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 251));
let requests: IncomingMessage[] = [];

/** What each path answers. */
const routes: Record<string, (response: ServerResponse, request: IncomingMessage) => void> = {
  "/whole": (r) => r.writeHead(200, { "content-length": body.length }).end(body),
  "/chunked": (r) => {
    r.writeHead(200);
    for (let at = 0; at < body.length; at += 9999) r.write(body.subarray(at, at + 9999));
    r.end();
  },
  "/gzip": (r) => {
    const packed = gzipSync(body);
    r.writeHead(200, { "content-encoding": "gzip", "content-length": packed.length }).end(packed);
  },
  "/empty": (r) => r.writeHead(200, { "content-length": 0 }).end(),
  "/moved": (r) => r.writeHead(302, { location: "/whole" }).end(),
  "/gone": (r) => r.writeHead(410).end("gone"),
  "/page": (r) =>
    r.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end("<!doctype html><title>app</title>"),
  "/page.html": (r) => r.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>"),
  "/401": (r) => r.writeHead(401).end(),
  "/403": (r) => r.writeHead(403).end(),
  "/500": (r) => r.writeHead(500, "Broken").end("sorry"),
  "/503": (r) => r.writeHead(503).end(),
  "/cut": (r) => {
    r.writeHead(200, { "content-length": body.length });
    r.write(body.subarray(0, 40_000), () => r.destroy());
  },
  "/cut-chunked": (r) => {
    r.writeHead(200);
    r.write(body.subarray(0, 40_000), () => r.destroy());
  },
  "/reset": (r) => r.destroy(),
  "/slow": (r) => {
    r.writeHead(200, { "content-length": body.length });
    r.write(body.subarray(0, 1000));
  },
  "/silent": () => undefined,
  "/latin1.txt": (r) => r.writeHead(200).end(Buffer.from([0x63, 0xe9])),
  "/utf8.txt": (r) => r.writeHead(200).end("é狐"),
  "/sub/x y#z?.json": (r) => r.writeHead(200).end("{}"),
};

const server = createServer((request, response) => {
  requests.push(request);
  const path = decodeURIComponent(new URL(request.url!, "http://localhost").pathname);
  const route = routes[path.replace(/^\/base/, "")] ?? routes[path.replace(/^.*\/resolve\/[^/]+/, "")];
  if (route === undefined) response.writeHead(404).end();
  else route(response, request);
});
let url = "";
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  requests = [];
});

type Options = Omit<LoadOptions, keyof OpenOptions> & OpenOptions;
const open = async (path: string, options: Options = {}): ReturnType<Source["open"]> =>
  new HttpSource(url, url, options, { ...defaultPolicy, delay: 1 }).open(path, options);

describe("over HTTP", () => {
  test.each(["whole", "chunked", "gzip", "moved"])("%s: all bytes, in any range", async (path) => {
    const seen: LoadStep[] = [];
    const file = (await open(path, { progress_callback: (progress) => seen.push(progress) }))!;
    expect([file.path, file.size]).toEqual([path, body.length]);
    expect(Buffer.compare(file.readSync(0, file.size), body)).toBe(0);
    expect([...file.readSync(250, 254)]).toEqual([250, 0, 1, 2]);
    expect(seen.every(({ phase, file }) => phase === "download" && file === path)).toBe(true);
    expect(seen[0]!.loaded).toBe(0);
    expect(seen.at(-1)!.loaded).toBe(body.length);
    expect(seen.at(-1)!.total).toBe(path === "whole" || path === "moved" ? body.length : 0);
    file.close();
    file.close();
  });

  test("an empty file is a file", async () => {
    expect((await open("empty"))!.size).toBe(0);
  });

  test.each(["none", "gone", "page"])("%s: no such file", async (path) => {
    expect(await open(path)).toBeUndefined();
  });

  test("a page is a file where a page was asked for", async () => {
    expect((await open("page.html"))!.size).toBe(15);
  });

  test.each([
    ["401", /401.*token/],
    ["403", /403.*token/],
    ["500", /500 Broken/],
    ["503", /503/],
  ])("%s: says so", async (path, message) => {
    const opened = open(path);
    await expect(opened).rejects.toThrow(ModelNotFoundError);
    await expect(opened).rejects.toThrow(message);
    await expect(opened).rejects.toMatchObject({ details: { file: path, found: `HTTP ${path}` } });
  });

  test.each([
    ["cut", /cut ended after \d+ bytes of 100000/],
    ["cut-chunked", /cut-chunked ended after \d+ bytes/],
  ])("%s: an IntegrityError", async (path, message) => {
    const opened = open(path);
    await expect(opened).rejects.toThrow(IntegrityError);
    await expect(opened).rejects.toThrow(message);
  });

  test("a server that hangs up, and one that is not there", async () => {
    await expect(open("reset")).rejects.toThrow(ModelNotFoundError);
    const address = "http://127.0.0.1:9";
    const nobody = new HttpSource(address, address, {}, { ...defaultPolicy, delay: 1 });
    await expect(nobody.open("x.json")).rejects.toThrow(/127\.0\.0\.1:9\/x\.json could not be reached/);
  });

  test("a body that is shorter than announced, where fetch lets it pass", async () => {
    const short =
      (type: ResponseType, length: string): typeof fetch =>
      async () =>
        Object.defineProperty(new Response("0123456789", { headers: { "content-length": length } }), "type", {
          value: type,
        });
    await expect(open("x", { fetch: short("basic", "11") })).rejects.toThrow(/x ended after 10 bytes of 11/);
    // From another origin the length may be that of a body whose compression is hidden.
    expect((await open("x", { fetch: short("cors", "30") }))!.size).toBe(10);
    expect((await open("x", { fetch: short("cors", "4") }))!.size).toBe(10);
    await expect(open("x", { fetch: short("cors", "1000") })).rejects.toThrow(IntegrityError);
    await expect(open("x", { fetch: short("basic", "9e15") })).rejects.toThrow(/do not fit into memory/);
  });

  test.each(["slow", "silent"])("%s: aborted, it rejects with the signal's reason", async (path) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const error: unknown = await open(path, { signal: controller.signal }).catch((reason: unknown) => reason);
    expect(error).toBe(controller.signal.reason);
    expect(error).toMatchObject({ name: "AbortError" });
    const reason = new Error("changed my mind");
    await expect(open("whole", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test("paths are escaped, and never lead out of the source", async () => {
    expect((await open("sub/x y#z?.json"))!.size).toBe(2);
    for (const path of ["../whole", "a/../../whole", "/whole", "..\\whole"]) expect(await open(path)).toBeUndefined();
    expect(requests).toHaveLength(1);
  });

  test.each([
    ["a base with a slash", "/base/", "/base/whole"],
    ["a base without", "/base", "/base/whole"],
    ["a base with a query, which its files keep", "/base?key=1", "/base/whole?key=1"],
  ])("%s", async (_, base, expected) => {
    expect((await (await openSource(url + base)).open("whole"))!.size).toBe(body.length);
    expect(requests.map((request) => request.url)).toEqual([expected]);
  });

  test("a fetch of one's own, called as a function", async () => {
    const asked: unknown[] = [];
    const own = function (this: unknown, input: RequestInfo | URL): Promise<Response> {
      asked.push(this, String(input));
      return Promise.resolve(new Response("hello"));
    };
    expect((await open("x.bin", { fetch: own as typeof fetch }))!.size).toBe(5);
    expect(asked).toEqual([undefined, `${url}/x.bin`]);
  });
});

describe("the hub", () => {
  test.each([
    ["owner/name", {}, "/api/models/owner/name/revision/main", undefined],
    ["gpt2", { revision: "fp16" }, "/api/models/gpt2/revision/fp16", undefined],
    [
      "o.w-n_er/na.me",
      { revision: "refs/pr/1", token: "hf_x" },
      "/api/models/o.w-n_er/na.me/revision/refs%2Fpr%2F1",
      "Bearer hf_x",
    ],
  ])("%s %j: its commit is asked for first", async (id, options, path, authorization) => {
    const source = await openSource(id, { ...options, endpoint: `${url}/`, cache: false });
    expect(source.name).toBe(id);
    await expect(source.open("whole")).rejects.toThrow(ModelNotFoundError);
    const asked = requests.map(({ url, headers }) => [url?.replace(/\?.*/, ""), headers.authorization]);
    expect(asked).toEqual([[path, authorization]]);
  });

  test.each(["a/b/c", "a b", "", "../x", "a/..", "ftp://x", "data:text/plain,x", "~/x"])("%j is no id", async (id) => {
    await expect(openSource(id, { endpoint: url })).rejects.toThrow(ModelNotFoundError);
    expect(requests).toEqual([]);
  });

  test.each([undefined, null, 3, true])("%j is no source", async (from) => {
    await expect(openSource(from as unknown as string)).rejects.toThrow(TypeError);
  });
});

describe("a folder", () => {
  const folder = mkdtempSync(join(tmpdir(), "source-"));
  beforeAll(() => {
    mkdirSync(join(folder, "sub"));
    writeFileSync(join(folder, "whole"), body);
    writeFileSync(join(folder, "sub", "x.txt"), "é狐");
    writeFileSync(join(folder, "sub", "latin1.txt"), Buffer.from([0x63, 0xe9]));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([
    ["a path", folder],
    ["a file URL", pathToFileURL(folder)],
    ["a file URL's text", pathToFileURL(folder).href],
  ])("%s: bytes in any range", async (_, from) => {
    const file = (await (await openSource(from)).open("whole"))!;
    expect(file.size).toBe(body.length);
    expect(Buffer.compare(file.readSync(0, file.size), body)).toBe(0);
    expect([...file.readSync(250, 254)]).toEqual([250, 0, 1, 2]);
    expect(file.readSync(99_999, 100_005).length).toBe(1);
    file.close();
    file.close();
  });

  test("no such file, a folder in its place, and paths that lead out", async () => {
    const source = await openSource(join(folder, "sub"));
    for (const path of ["none", ".", "../whole", "/etc/hostname"]) expect(await source.open(path)).toBeUndefined();
    expect(await (await openSource(folder)).open("sub")).toBeUndefined();
  });

  test.each([join(tmpdir(), "no-such-folder"), "./no-such-folder", "../no-such-folder", "file:///no-such-folder"])(
    "%s: no such folder",
    async (path) => {
      await expect(openSource(path)).rejects.toThrow(ModelNotFoundError);
      await expect(openSource(path)).rejects.toThrow(/no-such-folder/);
    },
  );

  test("subSource and readText", async () => {
    const source = await openSource(folder);
    for (const name of ["sub", "sub/"]) {
      const sub = subSource(source, name);
      expect(sub.name).toBe(`${folder}/sub`);
      expect(await readText(sub, "x.txt")).toBe("é狐");
      expect(await readText(sub, "none.txt")).toBeUndefined();
      await expect(readText(sub, "latin1.txt")).rejects.toThrow(IntegrityError);
      expect(await readText(sub, "../whole")).toBeUndefined();
    }
    expect(subSource(source, undefined)).toBe(source);
    expect(subSource(source, "")).toBe(source);
  });

  test("a source of one's own is taken as it is", async () => {
    const own: Source = { name: "own", open: async () => undefined };
    expect(await openSource(own)).toBe(own);
  });
});
