/** The hub that other tests download from: as Python's huggingface_hub and @huggingface/hub see it. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { downloadFile, fileDownloadInfo, fileExists, listFiles, modelInfo, pathsInfo } from "@huggingface/hub";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import python from "../fixtures/hub/python.json" with { type: "json" };
import {
  config,
  content,
  isContent,
  latest,
  listTree,
  model,
  old,
  receive,
  resolveUrl,
  sizes,
  startModelHub,
  stranger,
  type TreeEntry,
  unet,
} from "../support/hub_model.ts";
import type { Hub, HubRequest } from "../support/hub_server.mjs";

interface PythonRequest {
  readonly method: string;
  readonly kind: string;
  readonly status: number;
  readonly range?: string;
  /** Bytes of the body, where it was a file's. */
  readonly sent?: number;
}

let hub: Hub;
beforeAll(async () => {
  hub = await startModelHub();
});
afterAll(() => hub.close());
afterEach(() => {
  hub.clearFaults();
  hub.requests.length = 0;
});

const bearer = (token: string | undefined): Record<string, string> =>
  token === undefined ? {} : { authorization: `Bearer ${token}` };
const bytes = async (response: Response): Promise<Uint8Array> => new Uint8Array(await response.arrayBuffer());

/** An entry in the words of huggingface_hub. */
function inPython({ path, oid, size, type, lfs }: TreeEntry): object {
  if (type === "directory") return { path, oid };
  const large = lfs && { lfs: { sha256: lfs.oid, size: lfs.size, pointerSize: lfs.pointerSize } };
  return { path, oid, size, ...large };
}

describe("as huggingface_hub sees it", () => {
  test("a tree, page by page, with git's own names", async () => {
    const entries = await listTree(hub, "main?recursive=true");
    expect(entries.map(inPython)).toEqual(python.tree);
    expect(hub.requests).toHaveLength(Math.ceil(entries.length / 4));
    const names = (rows: readonly { path: string; oid: string }[]): string[][] =>
      rows.map(({ path, oid }) => [path, oid]).sort();
    expect(names(entries)).toEqual(names(python.git));
    for (const { path, lfs } of entries) {
      if (lfs) expect(lfs.oid).toBe(createHash("sha256").update(content(path)).digest("hex"));
    }
    expect((await listTree(hub, "main")).map(({ path }) => path)).toEqual(python.tree_top);
    expect((await listTree(hub, "main/unet/deep")).map(({ path }) => path)).toEqual(python.tree_folder);
    expect(await listTree(hub, "main?recursive=true&limit=2")).toEqual(entries);
  });

  test.each(Object.entries(python.revisions))("the commit of %s", async (revision, sha) => {
    const response = await fetch(`${hub.url}/api/models/tests/model/revision/${encodeURIComponent(revision)}`);
    const info = (await response.json()) as { sha: string; siblings: { rfilename: string }[] };
    expect(info.sha).toBe(sha);
    const paths = sha === latest ? Object.keys(sizes) : python.old;
    expect(info.siblings.map(({ rfilename }) => rfilename)).toEqual([...paths].sort());
  });

  test("a model, with its files' names and sizes", async () => {
    const response = await fetch(`${hub.url}/api/models/tests/model?blobs=true`);
    const { id, sha, private: hidden, gated, siblings } = await response.json();
    const rows = siblings.map((row: { rfilename: string; blobId: string; size: number; lfs?: { sha256: string } }) => ({
      path: row.rfilename,
      oid: row.blobId,
      size: row.size,
      ...(row.lfs && { sha256: row.lfs.sha256 }),
    }));
    expect({ id, sha, private: hidden, gated, siblings: rows }).toEqual(python.model_info);
  });

  test("what some paths are", async () => {
    const response = await fetch(`${hub.url}/api/models/tests/model/paths-info/main`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ paths: ["unet", "text_encoder/model.safetensors", "none"] }),
    });
    expect(((await response.json()) as TreeEntry[]).map(inPython)).toEqual(python.paths_info);
  });

  const api = "/api/models/tests";
  test.each([
    ["no file", "/tests/model/resolve/main/none.json", undefined, "EntryNotFound"],
    ["no revision", `/tests/model/resolve/none/${config}`, undefined, "RevisionNotFound"],
    ["no repository", `/tests/none/resolve/main/${config}`, undefined, "RepoNotFound"],
    ["no repository, with a token", `/tests/none/resolve/main/${config}`, "hf_test", "RepoNotFound"],
    ["gated", `/tests/gated/resolve/main/${config}`, undefined, "GatedRepo"],
    ["gated, for a stranger", `/tests/gated/resolve/main/${config}`, stranger, "GatedRepo"],
    ["private", "/tests/private/resolve/main/README.md", undefined, "RepoNotFound"],
    ["private, for a stranger", "/tests/private/resolve/main/README.md", stranger, "RepoNotFound"],
    ["wrong token", "/tests/model/resolve/main/other.json", "hf_wrong", null],
    ["info: no repository", `${api}/none`, undefined, "RepoNotFound"],
    ["info: no revision", `${api}/model/revision/none`, undefined, "RevisionNotFound"],
    ["tree: no folder", `${api}/model/tree/main/none`, undefined, "EntryNotFound"],
    ["tree: no revision", `${api}/model/tree/none`, undefined, "RevisionNotFound"],
  ] as const)("%s", async (name, path, token, code) => {
    const response = await fetch(hub.url + path, { headers: bearer(token) });
    expect(response.status).toBe(python.errors[name].status);
    expect(response.headers.get("x-error-code")).toBe(code);
    const text = await response.text();
    const message = path.startsWith("/api") ? JSON.parse(text).error : text;
    expect(message).toBe(response.headers.get("x-error-message"));
    expect(response.headers.get("x-repo-commit")).toBe(name === "no file" ? latest : null);
  });

  test.each(["tests/gated", "tests/private"])("%s, with the right token", async (repo) => {
    const response = await fetch(resolveUrl(hub, unet, "main", repo), { headers: bearer("hf_test") });
    expect(isContent(await bytes(response), unet)).toBe(true);
    expect(hub.leaks).toEqual([]);
  });

  /** What Python did when it was cut off and refused, once more. */
  const requests: Record<string, PythonRequest[]> = python.requests;
  test.each(Object.entries(requests))("its requests for %s", async (path, rows) => {
    if (path === unet) for (const cut of [700_000, 1_000_000]) hub.fault(path, { cut });
    else hub.fault(path, path === config ? { status: 429, retry_after: 1 } : { status: 503 });
    let location = "";
    for (const { method, kind, status, range, sent } of rows) {
      const url = kind === "resolve" ? resolveUrl(hub, path) : new URL(location, hub.url).href;
      const response = await fetch(url, {
        method,
        redirect: "manual",
        headers: { accept: "*/*", ...(range !== undefined && { range }) },
      });
      location = response.headers.get("location") ?? location;
      expect([kind, response.status]).toEqual([kind, status]);
      if (method !== "GET") continue;
      const { got } = await receive(response);
      if (sent !== undefined) expect(got).toHaveLength(sent);
    }
  });
});

describe("as @huggingface/hub sees it", () => {
  const common = (): { repo: string; hubUrl: string } => ({ repo: model, hubUrl: hub.url });

  test("listing", async () => {
    const entries: TreeEntry[] = [];
    for await (const entry of listFiles({ ...common(), recursive: true })) entries.push(entry as TreeEntry);
    expect(entries.map(inPython)).toEqual(python.tree);
  });

  test("the model and its commit", async () => {
    const info = await modelInfo({ name: model, hubUrl: hub.url, additionalFields: ["sha"], revision: "v1.0" });
    expect([info.name, info.sha, info.private, info.gated]).toEqual([model, old, false, false]);
    expect((await modelInfo({ name: "tests/gated", hubUrl: hub.url })).gated).toBe("auto");
    expect((await pathsInfo({ ...common(), paths: [unet] }))[0]!.lfs!.size).toBe(1_500_000);
  });

  test.each([unet, config, "README.md", "unet/deep/er/x.bin"])("the bytes of %s", async (path) => {
    const blob = (await downloadFile({ ...common(), path, xet: false }))!;
    expect(blob.size).toBe(sizes[path]);
    expect(isContent(new Uint8Array(await blob.arrayBuffer()), path)).toBe(true);
    expect(isContent(new Uint8Array(await blob.slice(2, 5).arrayBuffer()), path, 2, 5)).toBe(true);
  });

  test("a file's size and hash, without a redirect", async () => {
    const info = (await fileDownloadInfo({ ...common(), path: unet }))!;
    const { lfs } = python.tree.find(({ path }) => path === unet)!;
    expect([info.size, info.etag]).toEqual([1_500_000, `"${lfs!.sha256}"`]);
    expect(hub.requests).toHaveLength(1);
  });

  test("what is not there, and what is gated", async () => {
    expect(await downloadFile({ ...common(), path: "none.json" })).toBeNull();
    expect(await fileExists({ ...common(), path: "none.json" })).toBe(false);
    await expect(downloadFile({ ...common(), repo: "tests/gated", path: config })).rejects.toMatchObject({
      statusCode: 401,
    });
  });
});

describe("files", () => {
  test("a large file is elsewhere", async () => {
    const response = await fetch(resolveUrl(hub, unet, "v1.0"), { redirect: "manual" });
    const { lfs } = python.tree.find(({ path }) => path === unet)!;
    expect(response.status).toBe(302);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "x-repo-commit": old,
      "x-linked-size": "1500000",
      "x-linked-etag": `"${lfs!.sha256}"`,
    });
    const location = new URL(response.headers.get("location")!);
    expect(location.origin).toBe(hub.cdn);
    const answer = await fetch(location);
    expect(isContent(await bytes(answer), unet)).toBe(true);
    location.searchParams.set("Signature", "other");
    expect((await fetch(location)).status).toBe(403);
  });

  test("a small file is beside the API, under its commit", async () => {
    const response = await fetch(resolveUrl(hub, config), { redirect: "manual" });
    const { oid } = python.tree.find(({ path }) => path === config)!;
    expect(response.status).toBe(307);
    expect(response.headers.get("x-linked-etag")).toBe(`"${oid}"`);
    const location = response.headers.get("location")!;
    expect(location).toMatch(`/api/resolve-cache/models/tests/model/${latest}/${config}`);
    const answer = await fetch(hub.url + location, { headers: { "accept-encoding": "identity" } });
    expect([answer.status, answer.headers.get("etag"), answer.headers.get("content-length")]).toEqual([
      200,
      `"${oid}"`,
      "1800",
    ]);
    expect(isContent(await bytes(answer), config)).toBe(true);
    const known = await fetch(hub.url + location, { headers: { "if-none-match": `"${oid}"` } });
    expect(known.status).toBe(304);
  });

  test("a small text is compressed, and then has no length", async () => {
    const response = await fetch(resolveUrl(hub, config));
    expect(response.headers.get("content-encoding")).toBe("gzip");
    expect(response.headers.get("content-length")).toBeNull();
    expect(response.headers.get("accept-ranges")).toBeNull();
    expect(isContent(await bytes(response), config)).toBe(true);
    const range = await fetch(resolveUrl(hub, config), { headers: { range: "bytes=0-0" } });
    expect([range.headers.get("content-encoding"), range.headers.get("content-range")]).toEqual([
      null,
      "bytes 0-0/1800",
    ]);
  });

  test.each([
    ["bytes=0-0", 206, 0, 1],
    ["bytes=100-199", 206, 100, 200],
    ["bytes=1499990-", 206, 1_499_990, 1_500_000],
    ["bytes=1499990-9999999", 206, 1_499_990, 1_500_000],
    ["bytes=-10", 206, 1_499_990, 1_500_000],
    ["bytes=-9999999", 206, 0, 1_500_000],
    ["bytes=1500000-", 416, 0, 0],
    ["bytes=-0", 416, 0, 0],
    ["bytes=9-3", 200, 0, 1_500_000],
    ["bytes=0-1,5-6", 200, 0, 1_500_000],
    ["lines=0-1", 200, 0, 1_500_000],
  ])("%s", async (range, status, begin, end) => {
    const response = await fetch(resolveUrl(hub, unet), { headers: { range } });
    expect(response.status).toBe(status);
    const told = { 206: `bytes ${begin}-${end - 1}/1500000`, 416: "bytes */1500000" }[status] ?? null;
    expect(response.headers.get("content-range")).toBe(told);
    expect(response.headers.get("accept-ranges")).toBe("bytes");
    expect(isContent(await bytes(response), unet, begin, end)).toBe(true);
  });

  test("If-Range", async () => {
    const etag = (await fetch(resolveUrl(hub, unet), { method: "HEAD" })).headers.get("etag")!;
    const ask = (value: string): Promise<Response> =>
      fetch(resolveUrl(hub, unet), { headers: { range: "bytes=5-9", "if-range": value } });
    expect((await ask(etag)).status).toBe(206);
    expect((await ask('"other"')).status).toBe(200);
  });

  test("what pages may read and ask", async () => {
    const origin = "https://page.example";
    const small = await fetch(resolveUrl(hub, "empty.txt"), { headers: { origin } });
    expect(small.headers.get("access-control-allow-origin")).toBe(origin);
    expect(small.headers.get("access-control-expose-headers")).toMatch(/X-Repo-Commit.*ETag.*X-Linked-Size/);
    const large = await fetch(resolveUrl(hub, unet), { headers: { origin } });
    expect(large.headers.get("access-control-allow-origin")).toBe("*");
    const preflight = await fetch(resolveUrl(hub, unet), {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization,range",
      },
    });
    expect(preflight.ok).toBe(true);
    expect(preflight.headers.get("access-control-allow-headers")).toBe("authorization,range");
  });

  test("a token at the CDN is refused and told of", async () => {
    const { headers } = await fetch(resolveUrl(hub, unet), { redirect: "manual" });
    const response = await fetch(headers.get("location")!, { headers: bearer("hf_test") });
    expect(response.status).toBe(400);
    expect(hub.leaks.map(({ file }) => file)).toEqual([unet]);
  });

  test("a branch moves", async () => {
    const commits = {
      [latest]: new Map([["a.json", "{}"]]),
      [old]: new Map([["b.json", "[]"]]),
    };
    hub.setRepo("tests/moving", { revisions: { main: latest }, commits });
    const paths = async (): Promise<string> => {
      const listing = await fetch(`${hub.url}/api/models/tests/moving/tree/main`);
      return ((await listing.json()) as TreeEntry[]).map(({ path }) => path).join();
    };
    expect(await paths()).toBe("a.json");
    hub.setRevision("tests/moving", "main", old);
    expect(await paths()).toBe("b.json");
  });

  test("a folder, and a generated file larger than memory", async () => {
    const folder = mkdtempSync(join(tmpdir(), "hub-"));
    try {
      mkdirSync(join(folder, "unet"));
      writeFileSync(join(folder, unet), content(unet));
      let most = 0;
      const read = (begin: number, end: number): Uint8Array => {
        most = Math.max(most, end - begin);
        return Uint8Array.from({ length: end - begin }, (_, i) => (begin + i) % 251);
      };
      const size = 5_000_000_000;
      hub.setRepo("tests/folder", {
        revisions: { main: latest, generated: old },
        commits: { [latest]: folder, [old]: new Map([["x.bin", { size, read, sha256: "0".repeat(64) }]]) },
      });
      const file = await fetch(resolveUrl(hub, unet, "main", "tests/folder"));
      expect(isContent(await bytes(file), unet)).toBe(true);
      const headers = { range: `bytes=${size - 1_000_000}-` };
      const part = await fetch(resolveUrl(hub, "x.bin", "generated", "tests/folder"), { headers });
      expect(part.headers.get("content-range")).toBe(`bytes ${size - 1_000_000}-${size - 1}/${size}`);
      const got = await bytes(part);
      expect([got.length, got[0], got.at(-1)]).toEqual([1_000_000, (size - 1_000_000) % 251, (size - 1) % 251]);
      expect(most).toBeLessThanOrEqual(256 * 1024);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

test("from the command line", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hub-"));
  writeFileSync(join(folder, "model_index.json"), "{}");
  const script = fileURLToPath(new URL("../support/hub_server_cli.mjs", import.meta.url));
  const options = JSON.stringify({ faults: [["model_index.json", { status: 503 }]] });
  const child = spawn(process.execPath, [script, `tests/model=${folder}`, "--options", options], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  try {
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const { url } = JSON.parse((await lines.next()).value as string);
    const ask = (): Promise<Response> => fetch(`${url}/tests/model/resolve/main/model_index.json`);
    expect((await ask()).status).toBe(503);
    expect(await (await ask()).text()).toBe("{}");
    child.stdin.end();
    const { requests } = JSON.parse((await lines.next()).value as string);
    expect(requests.map(({ kind, status }: HubRequest) => [kind, status])).toEqual([
      ["resolve", 503],
      ["resolve", 307],
      ["cache", 200],
    ]);
    const [code] = await once(child, "exit");
    expect(code).toBe(0);
  } finally {
    child.kill();
    rmSync(folder, { recursive: true });
  }
});
