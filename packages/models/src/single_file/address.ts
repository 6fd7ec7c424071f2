import { isNode, nodeImport, type SourceLike, UnsupportedModelError } from "@diffusers-web/core";

/**
 * Where a checkpoint in one file is: the address of a file on the hub (with or without `https://huggingface.co/`), another
 * URL, a path in Node, a `File`, or a file of a {@link SourceLike}.
 */
export type SingleFileSource = string | URL | File | { readonly source: SourceLike; readonly file: string };

/** A file of a source. */
export interface SingleFileAddress {
  readonly source: SourceLike;
  readonly file: string;
  /** That the address names. */
  readonly revision?: string;
}

const hubAddress =
  /^(?:(?:https?:\/\/)?(?:huggingface\.co|hf\.co)\/)?([\w.-]+\/[\w.-]+)\/(?:(?:blob|resolve|raw)\/([^/]+)\/)?(.+)$/;

/**
 * Finds out what an address means, without reading anything but (in Node) whether there is a file.
 *
 * @internal
 * @param within where in a pickle of that name the tensors are, see {@link pickle}
 * @throws UnsupportedModelError for a pickle or another format, by its name.
 * @throws TypeError for what is no address.
 */
export async function parseAddress(
  from: SingleFileSource,
  endpoint?: string,
  within?: (file: string) => string,
): Promise<SingleFileAddress> {
  const address = await addressOf(from, endpoint);
  checkFormat(address.file, within);
  return address;
}

async function addressOf(from: SingleFileSource, endpoint: string | undefined): Promise<SingleFileAddress> {
  if (typeof File !== "undefined" && from instanceof File) {
    // Of a chosen folder, its source leaves the folder's name out.
    return { source: [from], file: from.webkitRelativePath?.replace(/^[^/]*\//, "") || from.name };
  }
  if (typeof from === "object" && from !== null && "file" in from && "source" in from) {
    return { source: from.source, file: from.file };
  }
  if (typeof from !== "string" && !(from instanceof URL)) {
    throw new TypeError(
      "A checkpoint in one file is loaded from a URL, a path, a hub file's address, a File or { source, file }; " +
        `got ${from === null ? "null" : typeof from}.`,
    );
  }
  const text = String(from);
  const isUrl = /^https?:\/\//.test(text);
  if (isNode && !isUrl) {
    const local = await localFile(text);
    if (local !== undefined) return local;
  }
  const mirror = endpoint?.replace(/\/+$/, "");
  const path = mirror !== undefined && text.startsWith(`${mirror}/`) ? text.slice(mirror.length + 1) : text;
  const [, repo, revision, file] = (/^(\.{0,2}\/|file:)/.test(path) ? null : hubAddress.exec(path)) ?? [];
  if (repo !== undefined && file !== undefined && !/^https?:/.test(repo)) {
    const decoded = (one: string): string => (isUrl ? decodeURIComponent(one) : one);
    return {
      source: repo,
      file: decoded(file.replace(/\?.*$/, "")),
      ...(revision === undefined ? {} : { revision: decodeURIComponent(revision) }),
    };
  }
  if (isUrl) {
    const url = new URL(text);
    const base = new URL(".", url);
    // What an address is signed with.
    base.search = url.search;
    return { source: base, file: decodeURIComponent(url.pathname.slice(url.pathname.lastIndexOf("/") + 1)) };
  }
  // Relative to the page.
  const cut = text.lastIndexOf("/") + 1;
  return { source: text.slice(0, cut) || "./", file: text.slice(cut) };
}

/** A path in Node; undefined for what may be a file on the hub. */
async function localFile(text: string): Promise<SingleFileAddress | undefined> {
  const { statSync } = await nodeImport<typeof import("node:fs")>("node:fs");
  const { basename, dirname } = await nodeImport<typeof import("node:path")>("node:path");
  const { fileURLToPath } = await nodeImport<typeof import("node:url")>("node:url");
  const path = text.startsWith("file:") ? fileURLToPath(text) : text;
  const isThere = statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  const looksLocal = /^(\.{0,2}[\\/]|file:|[a-zA-Z]:[\\/])/.test(text) || !text.includes("/");
  return isThere || looksLocal ? { source: dirname(path), file: basename(path) } : undefined;
}

function checkFormat(file: string, within?: (file: string) => string): void {
  const [, ending = ""] = /\.(ckpt|pt|pth|bin|pkl|gguf|onnx|yaml)$/i.exec(file) ?? [];
  if (ending === "") return;
  if (!/gguf|onnx|yaml/i.test(ending)) throw pickle(file, within?.(file));
  throw new UnsupportedModelError(`${file} is no safetensors file: a checkpoint in one file is loaded from one.`, {
    file,
    found: `.${ending}`,
    expected: ".safetensors",
  });
}

/**
 * What is said of a pickle.
 *
 * @internal
 * @param within where in it the tensors are, as Python asks for them
 */
export function pickle(file: string, within = "['state_dict']"): UnsupportedModelError {
  return new UnsupportedModelError(
    `${file} is a pickle, which can run code when it is read. Use the .safetensors file of the same checkpoint, or convert ` +
      `it in Python: safetensors.torch.save_file(torch.load(file, weights_only=True)${within}, name).`,
    { file, found: "a pickle", expected: ".safetensors" },
  );
}
