// What the test hub serves: files in memory, on disk or generated, with the names that git and LFS give them. Plain
// JavaScript without dependencies, since scripts run it as it is.
import { createHash } from "node:crypto";
import { createReadStream, readdirSync, statSync } from "node:fs";
import { join, relative, sep } from "node:path";

/** What the .gitattributes of a new model repository puts into LFS. */
const LFS_SUFFIXES =
  /\.(7z|arrow|bin|bz2|ckpt|ftz|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet|pb|pickle|pkl|pt|pth|rar|safetensors|tar|tflite|tgz|wasm|xz|zip|zst)$/;
/** The hub refuses files from here on in git. */
const LFS_SIZE = 10_000_000;
/** How much of a file is in memory at a time. */
const CHUNK = 256 * 1024;

/** Digests of files on disk, for all hubs of this process: gigabytes take seconds. By name, size and time of change. */
const kept = new Map();

/** One file. Its digests are computed when first asked for, in one pass over its bytes. */
class Content {
  /** @type {Map<string, Promise<string>>} by algorithm */
  #digests = new Map();
  #read;

  constructor(path, value) {
    this.path = path;
    if (typeof value === "string" || value instanceof Uint8Array) {
      const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
      this.size = bytes.length;
      this.#read = (begin, end) => bytes.subarray(begin, end);
    } else if (value.file !== undefined) {
      const { size, mtimeMs } = statSync(value.file);
      this.size = size;
      this.file = value.file;
      const stamp = `${value.file} ${size} ${mtimeMs}`;
      this.#digests = kept.get(stamp) ?? this.#digests;
      kept.set(stamp, this.#digests);
    } else {
      this.size = value.size;
      this.#read = value.read;
    }
    if (value.sha256 !== undefined) this.#digests.set("sha256", value.sha256);
  }

  /** The bytes from `begin` up to `end`, piece by piece. */
  async *chunks(begin, end) {
    if (end <= begin) return;
    if (this.file !== undefined) {
      yield* createReadStream(this.file, { start: begin, end: end - 1, highWaterMark: CHUNK });
      return;
    }
    for (let at = begin; at < end; at += CHUNK) yield await this.#read(at, Math.min(at + CHUNK, end));
  }

  sha256() {
    return this.#digest("sha256", "");
  }

  /** Git's name for the bytes. */
  blob() {
    return this.#digest("sha1", `blob ${this.size}\0`);
  }

  #digest(algorithm, header) {
    if (!this.#digests.has(algorithm)) this.#digests.set(algorithm, this.#compute(algorithm, header));
    return this.#digests.get(algorithm);
  }

  async #compute(algorithm, header) {
    const hash = createHash(algorithm).update(header);
    for await (const bytes of this.chunks(0, this.size)) hash.update(bytes);
    return hash.digest("hex");
  }
}

/** The files of one commit. */
export class Commit {
  /** @type {Map<string, Content>} by path, in git's order */
  files = new Map();
  #large;
  #entries;

  /**
   * @param {string} id 40 hexadecimal digits
   * @param {string | Map | object} files a folder's path, or what each path holds
   * @param {number | undefined} lfsAbove bytes; undefined for the hub's rule
   */
  constructor(id, files, lfsAbove) {
    this.id = id;
    this.#large = (path, size) =>
      lfsAbove === undefined ? LFS_SUFFIXES.test(path) || size >= LFS_SIZE : size > lfsAbove;
    const pairs =
      typeof files === "string" ? folderFiles(files) : files instanceof Map ? [...files] : Object.entries(files);
    for (const [path, value] of pairs.sort(([a], [b]) => (a < b ? -1 : 1))) {
      this.files.set(path, new Content(path, value));
    }
  }

  isLarge(content) {
    return this.#large(content.path, content.size);
  }

  /** What the hub says of a file: the etag is git's name for it, or the sha256 in LFS. */
  async fileInfo(content) {
    if (!this.isLarge(content)) {
      const blob = await content.blob();
      return { path: content.path, size: content.size, oid: blob, etag: blob };
    }
    const sha256 = await content.sha256();
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256}\nsize ${content.size}\n`;
    return {
      path: content.path,
      size: content.size,
      oid: gitObject("blob", pointer),
      etag: sha256,
      lfs: { oid: sha256, size: content.size, pointerSize: pointer.length },
      xetHash: createHash("sha256").update(`xet ${sha256}`).digest("hex"),
    };
  }

  /** All files and folders, as the tree endpoint lists them. */
  tree() {
    this.#entries ??= this.#list();
    return this.#entries;
  }

  async #list() {
    const root = new Map();
    const entries = [];
    for (const content of this.files.values()) {
      const { etag, path, size, oid, ...lfs } = await this.fileInfo(content);
      entries.push({ type: "file", oid, size, ...lfs, path });
      const names = path.split("/");
      let folder = root;
      for (const name of names.slice(0, -1)) {
        if (!folder.has(name)) folder.set(name, new Map());
        folder = folder.get(name);
      }
      folder.set(names.at(-1), oid);
    }
    const name = (folder, prefix) => {
      const rows = [...folder].map(([key, value]) => {
        if (typeof value === "string") return { key, sort: key, mode: "100644", oid: value };
        const oid = name(value, `${prefix}${key}/`);
        entries.push({ type: "directory", oid, size: 0, path: prefix + key });
        return { key, sort: `${key}/`, mode: "40000", oid };
      });
      rows.sort((a, b) => (a.sort < b.sort ? -1 : 1));
      return gitObject(
        "tree",
        Buffer.concat(rows.map(({ mode, key, oid }) => Buffer.concat([Buffer.from(`${mode} ${key}\0`), hex(oid)]))),
      );
    };
    name(root, "");
    return entries.sort((a, b) => (a.path < b.path ? -1 : 1));
  }
}

const hex = (text) => Buffer.from(text, "hex");

function gitObject(type, content) {
  const bytes = Buffer.from(content);
  return createHash("sha1").update(`${type} ${bytes.length}\0`).update(bytes).digest("hex");
}

/** Every file below a folder, but for what git and download tools keep there. */
function folderFiles(folder) {
  const found = [];
  const walk = (at) => {
    for (const name of readdirSync(at)) {
      if (name === ".git" || name === ".cache") continue;
      const full = join(at, name);
      if (statSync(full).isDirectory()) walk(full);
      else found.push([relative(folder, full).split(sep).join("/"), { file: full }]);
    }
  };
  walk(folder);
  return found;
}
