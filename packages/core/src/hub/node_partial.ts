import { IntegrityError, QuotaError, ValueError } from "../errors.ts";
import { errorCode, statIfThere } from "./local.ts";
import type { NodeModules } from "./node_lock.ts";
import type { FileInfo } from "./source.ts";
import type { PartialFile } from "./store.ts";

/** What is known of a file's first bytes, kept beside them. It never promises bytes that are not on the disk. */
interface State {
  readonly format: 1;
  readonly size: number;
  /** What the bytes are to be, where the hub said so: what is kept of another file is no start of this one. */
  readonly of: string;
  readonly offset: number;
  /** The hasher's state, base64. */
  readonly hash: string | null;
}

/** A file in the hub's cache folder while it is downloaded. Both its names end so that huggingface_hub's prune knows them. */
export class NodePartial implements PartialFile {
  private constructor(
    private readonly node: NodeModules,
    private readonly root: string,
    private readonly base: string,
    private readonly info: FileInfo,
    private readonly move: (data: string) => Promise<void>,
    public offset: number,
    public hash: Uint8Array | undefined,
  ) {}

  /** Goes on with what is kept under `base`, or starts anew. `move` puts the whole file into its place. */
  static async open(
    node: NodeModules,
    root: string,
    base: string,
    info: FileInfo,
    move: (data: string) => Promise<void>,
  ): Promise<NodePartial> {
    const { promises } = node.fs;
    const state = readState(node, base);
    const data = dataFile(base);
    const there = statIfThere(node.fs, data)?.size ?? 0;
    if (state !== undefined && state.size === info.size && state.of === contentOf(info) && there >= state.offset) {
      // What a crash left behind the last part that was kept.
      if (there > state.offset) await promises.truncate(data, state.offset);
      const hash = state.hash === null ? undefined : new Uint8Array(Buffer.from(state.hash, "base64"));
      return new NodePartial(node, root, base, info, move, state.offset, hash);
    }
    await NodePartial.remove(node, base);
    return new NodePartial(node, root, base, info, move, 0, undefined);
  }

  /** Removes what is kept under `base`. */
  static async remove({ fs }: NodeModules, base: string): Promise<void> {
    for (const file of [stateFile(base), nextStateFile(base), dataFile(base)]) {
      await fs.promises.rm(file, { force: true });
    }
  }

  async append(chunks: readonly Uint8Array<ArrayBuffer>[], hash: Uint8Array | undefined): Promise<void> {
    const { promises } = this.node.fs;
    const { path, size } = this.info;
    await writing(this.node, this.root, path, size - this.offset, async () => {
      // Created for the first bytes only: after a gap of zeros those that follow would be no part of the file.
      const handle = await promises.open(dataFile(this.base), this.offset === 0 ? "w" : "r+").catch((cause) => {
        throw errorCode(cause) === "ENOENT" ? this.removed(0, cause) : cause;
      });
      let position = this.offset;
      try {
        const stat = await handle.stat();
        if (stat.isFile() && stat.size < position) throw this.removed(stat.size);
        for (const chunk of chunks) {
          for (let done = 0; done < chunk.length; ) {
            const { bytesWritten } = await handle.write(chunk, done, chunk.length - done, position);
            done += bytesWritten;
            position += bytesWritten;
          }
        }
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await this.keepState(position, hash);
      this.offset = position;
      this.hash = hash;
    });
  }

  async complete(): Promise<void> {
    const data = dataFile(this.base);
    if (this.info.size === 0) await this.node.fs.promises.writeFile(data, "");
    const there = statIfThere(this.node.fs, data)?.size ?? 0;
    if (there !== this.info.size) throw this.removed(there);
    await writing(this.node, this.root, this.info.path, 0, () => this.move(data));
    await NodePartial.remove(this.node, this.base);
  }

  async discard(): Promise<void> {
    await NodePartial.remove(this.node, this.base);
    this.offset = 0;
    this.hash = undefined;
  }

  private async keepState(offset: number, hash: Uint8Array | undefined): Promise<void> {
    const { promises } = this.node.fs;
    const state: State = {
      format: 1,
      size: this.info.size,
      of: contentOf(this.info),
      offset,
      hash: hash === undefined ? null : Buffer.from(hash).toString("base64"),
    };
    // In one step: a crash leaves the state before or the state after.
    await promises.writeFile(nextStateFile(this.base), JSON.stringify(state));
    await promises.rename(nextStateFile(this.base), stateFile(this.base));
  }

  private removed(there: number, cause?: unknown): IntegrityError {
    const { path } = this.info;
    return new IntegrityError(
      `Of ${path}, ${there} bytes are in the hub's cache folder, and ${this.offset} were kept there: another program ` +
        "changed them. Load it again.",
      { file: path, found: `${there} bytes`, expected: `${this.offset} bytes` },
      { cause },
    );
  }
}

/**
 * Runs what writes to the hub's cache folder.
 *
 * @param missing how many bytes of `file` are still to be written
 * @throws QuotaError when the disk is full.
 * @throws ValueError when the folder may not be written to.
 */
export async function writing<T>(
  { fs }: NodeModules,
  root: string,
  file: string,
  missing: number,
  write: () => Promise<T>,
): Promise<T> {
  try {
    return await write();
  } catch (cause) {
    const code = errorCode(cause);
    if (code === "ENOSPC" || code === "EDQUOT") {
      const { bavail, bsize } = await fs.promises.statfs(root);
      const free = code === "EDQUOT" ? "your quota is used up" : `${bavail * bsize} are free`;
      throw new QuotaError(
        `The hub's cache folder ${root} has no room for ${file}: ${missing} bytes are missing, ${free}. ` +
          "Free some, or pass { cache_dir } with a folder on another disk.",
        { file, found: free, expected: `${missing} bytes` },
        { cause },
      );
    }
    if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
      throw new ValueError(
        `The hub's cache folder ${root} may not be written to: ${(cause as Error).message}. ` +
          "Pass { cache_dir } with a folder of your own, or { cache: false } to keep downloads in memory.",
        { file, found: code, expected: "a folder that may be written to", field: "cache_dir" },
        { cause },
      );
    }
    throw cause;
  }
}

function dataFile(base: string): string {
  return `${base}.incomplete`;
}

function stateFile(base: string): string {
  return `${base}.state.incomplete`;
}

function nextStateFile(base: string): string {
  return `${base}.next.incomplete`;
}

function contentOf(info: FileInfo): string {
  return info.sha256 ?? info.oid ?? "";
}

/** undefined where there is none, or a crash left one that cannot be read. */
function readState({ fs }: NodeModules, base: string): State | undefined {
  try {
    const state = JSON.parse(fs.readFileSync(stateFile(base), "utf8")) as Partial<State> | null;
    return state?.format === 1 && Number.isSafeInteger(state.offset) ? (state as State) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}
