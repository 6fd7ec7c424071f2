import { ValueError } from "../errors.ts";
import { nodeImport } from "../node.ts";
import { errorCode, listFolder, openFile, statIfThere } from "./local.ts";
import { type NodeModules, withLockFile } from "./node_lock.ts";
import { NodePartial, writing } from "./node_partial.ts";
import { leadsOut } from "./paths.ts";
import type { FileInfo, LoadOptions, SourceFile } from "./source.ts";
import type { FileKey, HubStore, PartialFile, RepoKey } from "./store.ts";

/** What Python's huggingface_hub takes for true in the environment. */
const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

/**
 * The hub's cache folder, in the layout of Python's huggingface_hub: what one has downloaded, the other opens.
 *
 * ```
 * models--owner--name/blobs/{sha256 of a large file, git id of a small one}
 *                     snapshots/{commit}/{path} -> ../../blobs/...   (where links fail the file itself)
 *                     refs/{revision}                                (holds the commit)
 *                     blobs/*.diffusers-web*.incomplete              (ours: parts and where they end)
 *                     .diffusers-web/{commit}.json                   (ours: the commit's listing)
 * .locks/models--owner--name/*.diffusers-web.lock                    (ours)
 * ```
 */
export async function openNodeStore(options: LoadOptions): Promise<HubStore> {
  const node: NodeModules = {
    fs: await nodeImport("node:fs"),
    path: await nodeImport("node:path"),
    os: await nodeImport("node:os"),
    crypto: await nodeImport("node:crypto"),
  };
  const folder = node.path.resolve(cacheFolder(options.cache_dir, process.env, node.os.homedir()));
  return new NodeStore(node, folder, !isTrue(process.env["HF_HUB_DISABLE_SYMLINKS"]));
}

/** Where the hub's cache folder is, decided as huggingface_hub does. A variable that is empty counts as not set. */
export function cacheFolder(
  given: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
  home: string,
): string {
  const set = (name: string): string | undefined => (env[name] === "" ? undefined : env[name]);
  const user = (path: string): string => path.replace(/^~(?=$|[\\/])/, () => home);
  const expand = (path: string): string =>
    user(path).replace(/\$(?:(\w+)|\{([^}]*)\})/g, (whole, name?: string, braced?: string) => {
      return env[name ?? braced ?? ""] ?? whole;
    });
  if (given !== undefined) return user(given);
  const hub = set("HF_HUB_CACHE") ?? set("HUGGINGFACE_HUB_CACHE");
  if (hub !== undefined) return expand(hub);
  return `${expand(set("HF_HOME") ?? `${set("XDG_CACHE_HOME") ?? `${home}/.cache`}/huggingface`)}/hub`;
}

export class NodeStore implements HubStore {
  /** Listings do not change: a commit has one. */
  private readonly listings = new Map<string, readonly FileInfo[]>();

  constructor(
    private readonly node: NodeModules,
    private readonly root: string,
    private readonly links: boolean,
  ) {}

  async open(key: FileKey): Promise<SourceFile | undefined> {
    const { fs } = this.node;
    const snapshot = this.snapshot(key, key.commit);
    const pointer = `${snapshot}/${key.path}`;
    const info = this.listed(key);
    let file = openFile(fs, snapshot, key.path);
    if (file === undefined && info !== undefined) {
      // Another commit, or a Python that was stopped, may have brought the bytes already.
      const blob = this.blob(key, nameOf(this.node, key, info));
      if (statIfThere(fs, blob)?.size !== info.size) return undefined;
      await writing(this.node, this.root, key.path, 0, () => this.link(blob, this.inside(snapshot, key.path), false));
      file = openFile(fs, snapshot, key.path);
    }
    if (file === undefined) return undefined;
    if (info !== undefined && info.size !== file.size) {
      // A crash of the whole machine can leave a whole file's name with a part of its bytes.
      file.close();
      return undefined;
    }
    try {
      fs.utimesSync(pointer, new Date(), fs.statSync(pointer).mtime);
    } catch (error) {
      // In a folder of someone else's, when it was used is not ours to say.
      if (!["EPERM", "EACCES", "EROFS"].includes(errorCode(error))) throw error;
    }
    return file;
  }

  async begin(key: FileKey, info: FileInfo): Promise<PartialFile> {
    const { fs } = this.node;
    const pointer = this.inside(this.snapshot(key, key.commit), key.path);
    const blob = this.blob(key, nameOf(this.node, key, info));
    return await writing(this.node, this.root, key.path, info.size, async () => {
      await fs.promises.mkdir(this.snapshot(key, key.commit), { recursive: true });
      await fs.promises.mkdir(this.blob(key, ""), { recursive: true });
      await this.tag();
      return NodePartial.open(this.node, this.root, this.partial(key), info, async (data) => {
        await fs.promises.rename(data, blob);
        await this.link(blob, pointer, true);
      });
    });
  }

  async exclusive<T>(key: FileKey, task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const name = `${this.name(key)}.diffusers-web.lock`;
    return await withLockFile(this.node, `${this.root}/.locks/${folderName(key)}/${name}`, task, signal);
  }

  async commit(repo: RepoKey, revision: string): Promise<string | undefined> {
    if (/^[0-9a-f]{40}$/.test(revision)) return revision;
    if (leadsOut(revision)) return undefined;
    const ref = `${this.folder(repo)}/refs/${revision}`;
    if (statIfThere(this.node.fs, ref)?.isFile() !== true) return undefined;
    const commit = this.node.fs.readFileSync(ref, "utf8").trim();
    return isCommit(commit) ? commit : undefined;
  }

  async keepCommit(repo: RepoKey, revision: string, commit: string): Promise<void> {
    // Nothing is written where nothing changes: the folder may be read-only.
    if (revision === commit || (await this.commit(repo, revision)) === commit) return;
    await this.replace(this.inside(`${this.folder(repo)}/refs`, revision), commit);
  }

  async listing(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined> {
    return this.listingNow(repo, commit);
  }

  async keepListing(repo: RepoKey, commit: string, files: readonly FileInfo[]): Promise<void> {
    const file = this.inside(`${this.folder(repo)}/.diffusers-web`, `${commit}.json`);
    await this.replace(file, JSON.stringify({ format: 1, files }, null, 1));
    this.listings.set(file, files);
  }

  async found(repo: RepoKey, commit: string): Promise<readonly FileInfo[] | undefined> {
    const { fs, path } = this.node;
    const snapshot = this.snapshot(repo, commit);
    if (statIfThere(fs, snapshot)?.isDirectory() !== true) return undefined;
    const files = listFolder(fs, snapshot).map((file): FileInfo => {
      const target = linkTarget(fs, `${snapshot}/${file.path}`);
      const name = target === undefined ? "" : path.basename(target);
      if (/^[0-9a-f]{64}$/.test(name)) return { ...file, sha256: name };
      return /^[0-9a-f]{40}$/.test(name) ? { ...file, oid: name } : file;
    });
    return files.length > 0 ? files : undefined;
  }

  async delete(key: FileKey): Promise<void> {
    const { fs, path } = this.node;
    const snapshot = this.snapshot(key, key.commit);
    const pointer = this.inside(snapshot, key.path);
    const target = linkTarget(fs, pointer);
    const blob = this.blob(key, target === undefined ? this.name(key) : path.basename(target));
    await fs.promises.rm(pointer, { force: true });
    for (let folder = path.dirname(pointer); folder.length > snapshot.length; folder = path.dirname(folder)) {
      if (statIfThere(fs, folder) === undefined) continue;
      if (fs.readdirSync(folder).length > 0) break;
      fs.rmdirSync(folder);
    }
    await NodePartial.remove(this.node, this.partial(key));
    // Another path, or another commit, may be of the same bytes.
    const snapshots = path.dirname(snapshot);
    const used = statIfThere(fs, snapshots) === undefined ? [] : listFolder(fs, snapshots);
    const isUsed = used.some((file) => {
      const other = linkTarget(fs, `${snapshots}/${file.path}`);
      return other !== undefined && path.basename(other) === path.basename(blob);
    });
    if (!isUsed) await fs.promises.rm(blob, { force: true });
  }

  private folder(repo: RepoKey): string {
    return `${this.root}/${folderName(repo)}`;
  }

  private snapshot(repo: RepoKey, commit: string): string {
    return this.inside(`${this.folder(repo)}/snapshots`, commit);
  }

  private blob(repo: RepoKey, name: string): string {
    return `${this.folder(repo)}/blobs/${name}`;
  }

  private partial(key: FileKey): string {
    return this.blob(key, `${this.name(key)}.diffusers-web`);
  }

  /** What a file's lock and its parts are called. */
  private name(key: FileKey): string {
    return nameOf(this.node, key, this.listed(key));
  }

  private listed(key: FileKey): FileInfo | undefined {
    return this.listingNow(key, key.commit)?.find(({ path }) => path === key.path);
  }

  private inside(folder: string, path: string): string {
    if (path !== "" && !leadsOut(path) && !path.includes("\0")) return `${folder}/${path}`;
    throw new ValueError(`${JSON.stringify(path)} cannot be a path in the hub's cache folder.`, { found: path });
  }

  private listingNow(repo: RepoKey, commit: string): readonly FileInfo[] | undefined {
    const own = this.inside(`${this.folder(repo)}/.diffusers-web`, `${commit}.json`);
    const known = this.listings.get(own);
    if (known !== undefined) return known;
    const files = this.readListing(own) ?? this.readListing(`${this.folder(repo)}/trees/${commit}.json`);
    if (files !== undefined) this.listings.set(own, files);
    return files;
  }

  /** Of our format or of huggingface_hub's; undefined where there is none that can be read: the hub is asked again. */
  private readListing(file: string): readonly FileInfo[] | undefined {
    if (statIfThere(this.node.fs, file)?.isFile() !== true) return undefined;
    let data: Partial<Listing> & Partial<PythonListing>;
    try {
      data = Object(JSON.parse(this.node.fs.readFileSync(file, "utf8"))) as typeof data;
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
    const files = data.format === 1 ? data.files : data.format_version === 1 ? fromPython(data.files) : undefined;
    const isWhole =
      Array.isArray(files) && files.every((entry) => typeof entry?.path === "string" && isSize(entry.size));
    return isWhole ? files : undefined;
  }

  /** Makes `pointer` mean the bytes of `blob`: a link, else the file itself (moved if it is new, else copied). */
  private async link(blob: string, pointer: string, isNew: boolean): Promise<void> {
    const { fs, path } = this.node;
    await fs.promises.mkdir(path.dirname(pointer), { recursive: true });
    const target = path.relative(path.dirname(pointer), blob);
    for (let attempt = 0; this.links && attempt < 2; attempt++) {
      try {
        await fs.promises.symlink(target, pointer);
        return;
      } catch (error) {
        if (errorCode(error) === "ENOSPC" || errorCode(error) === "EDQUOT") throw error;
        if (errorCode(error) !== "EEXIST") break;
        if (linkTarget(fs, pointer) === target) return;
        await fs.promises.rm(pointer, { force: true });
      }
    }
    if (isNew) {
      await fs.promises.rename(blob, pointer);
      return;
    }
    const copy = `${blob}.${this.node.crypto.randomUUID().slice(0, 8)}.diffusers-web.incomplete`;
    try {
      await fs.promises.copyFile(blob, copy);
      await fs.promises.rename(copy, pointer);
    } finally {
      await fs.promises.rm(copy, { force: true });
    }
  }

  /** Writes a small file in one step: no reader ever sees a part of it. */
  private async replace(file: string, text: string): Promise<void> {
    const { promises } = this.node.fs;
    const next = `${file}.${this.node.crypto.randomUUID().slice(0, 8)}.tmp`;
    await writing(this.node, this.root, file, text.length, async () => {
      await promises.mkdir(this.node.path.dirname(file), { recursive: true });
      try {
        await promises.writeFile(next, text);
        await promises.rename(next, file);
      } finally {
        await promises.rm(next, { force: true });
      }
    });
  }

  /** Backup programs leave out folders with such a file. */
  private async tag(): Promise<void> {
    const text = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of downloads: see bford.info/cachedir\n";
    await this.node.fs.promises.writeFile(`${this.root}/CACHEDIR.TAG`, text, { flag: "wx" }).catch((error) => {
      if (errorCode(error) !== "EEXIST") throw error;
    });
  }
}

/** What a commit's listing is kept as. */
interface Listing {
  readonly format: 1;
  readonly files: readonly FileInfo[];
}

/** What huggingface_hub keeps it as, by path. */
interface PythonListing {
  readonly format_version: 1;
  readonly files: Readonly<Record<string, PythonEntry>>;
}

interface PythonEntry {
  readonly size: number;
  readonly blob_id?: string;
  readonly lfs_sha256?: string;
  readonly lfs_size?: number;
}

function fromPython(files: PythonListing["files"] | undefined): readonly FileInfo[] | undefined {
  if (files === undefined) return undefined;
  return Object.entries(files).map(([path, entry]) => ({
    path,
    size: entry.lfs_size ?? entry.size,
    ...(entry.lfs_sha256 === undefined ? {} : { sha256: entry.lfs_sha256 }),
    ...(entry.blob_id === undefined ? {} : { oid: entry.blob_id }),
  }));
}

function isSize(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** @throws ValueError for a name that cannot be a repository's. */
function folderName({ repo }: RepoKey): string {
  if (!/^[\w.-]+(\/[\w.-]+)?$/.test(repo) || leadsOut(repo)) {
    throw new ValueError(`${JSON.stringify(repo)} is no hub id (owner/name).`, { found: repo });
  }
  return `models--${repo.replaceAll("/", "--")}`;
}

/** What a file's bytes are stored under: the hub's ETag, else a name of our own for this commit and path. */
function nameOf({ crypto }: NodeModules, key: FileKey, info: FileInfo | undefined): string {
  const etag = info?.sha256 ?? info?.oid;
  if (etag !== undefined && /^[0-9a-f]{40}([0-9a-f]{24})?$/.test(etag)) return etag;
  return `unlisted-${crypto.createHash("sha256").update(`${key.commit}/${key.path}`).digest("hex").slice(0, 40)}`;
}

function isCommit(text: string): boolean {
  return /^[\w-]+$/.test(text);
}

function linkTarget(fs: typeof import("node:fs"), file: string): string | undefined {
  try {
    return fs.readlinkSync(file);
  } catch (error) {
    if (["EINVAL", "ENOENT", "ENOTDIR", "UNKNOWN"].includes(errorCode(error))) return undefined;
    throw error;
  }
}
