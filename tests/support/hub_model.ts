import python from "../fixtures/hub/python.json" with { type: "json" };
import { type Hub, startHub } from "./hub_server.mjs";

// The repository that Python was given (tests/fixtures/hub/check_hub_server.py), on a hub in this process.

export const model = "tests/model";
/** A large file and a small one. */
export const unet = "unet/diffusion_pytorch_model.fp16.safetensors";
export const config = "unet/config.json";
/** Bytes, by path. */
export const sizes: Readonly<Record<string, number>> = python.files;
/** The commit of main. */
export const latest: string = python.commits.new;
/** The commit of v1.0. */
export const old: string = python.commits.old;
/** A token that opens nothing; `hf_test` opens all. */
export const stranger = "hf_stranger";

const contents = new Map<string, Uint8Array>();

/** A file's bytes, not to be written to. */
export function content(path: string): Uint8Array {
  const size = sizes[path]!;
  let bytes = contents.get(path);
  if (bytes === undefined) {
    bytes = new Uint8Array(size);
    for (let i = 0; i < size; i++) bytes[i] = (7 * i + size) % 251;
    contents.set(path, bytes);
  }
  return bytes;
}

/** A hub with the repository in three ways: open, gated, private. */
export function startModelHub(): Promise<Hub> {
  const files = (paths: readonly string[]): Record<string, Uint8Array> =>
    Object.fromEntries(paths.map((path) => [path, content(path)]));
  const repo = {
    revisions: { main: latest, "v1.0": old, "refs/pr/1": old },
    commits: { [latest]: files(Object.keys(sizes)), [old]: files(python.old) },
  };
  return startHub({
    repos: {
      [model]: repo,
      "tests/gated": { ...repo, gated: true },
      "tests/private": { ...repo, private: true },
    },
    pageSize: 4,
    tokens: { hf_test: true, [stranger]: [] },
  });
}

/** A file's address. */
export function resolveUrl(hub: Hub, path: string, revision = "main", repo: string = model): string {
  return `${hub.url}/${repo}/resolve/${encodeURIComponent(revision)}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

export interface TreeEntry {
  readonly type: string;
  readonly path: string;
  readonly oid: string;
  readonly size: number;
  readonly lfs?: { readonly oid: string; readonly size: number; readonly pointerSize: number };
}

/** All pages of a listing, e.g. of `main?recursive=true`. */
export async function listTree(hub: Hub, path: string, repo: string = model): Promise<TreeEntry[]> {
  const entries: TreeEntry[] = [];
  let next: string | undefined = `${hub.url}/api/models/${repo}/tree/${path}`;
  while (next !== undefined) {
    const response: Response = await fetch(next);
    entries.push(...((await response.json()) as TreeEntry[]));
    next = /<([^>]+)>; rel="next"/.exec(response.headers.get("link") ?? "")?.[1];
  }
  return entries;
}

/** All bytes that arrive, and whether the end came as announced. */
export async function receive(response: Response): Promise<{ got: Uint8Array; whole: boolean }> {
  const pieces: Uint8Array[] = [];
  try {
    for await (const piece of response.body!) pieces.push(piece);
    return { got: Buffer.concat(pieces), whole: true };
  } catch {
    return { got: Buffer.concat(pieces), whole: false };
  }
}

/** Whether these are a file's bytes from `begin` up to `end`. */
export function isContent(got: Uint8Array, path: string, begin = 0, end?: number): boolean {
  return Buffer.compare(got, content(path).subarray(begin, end)) === 0;
}
