import { QuotaError } from "@diffusers-web/core";
import { MemoryStore } from "../../packages/core/src/hub/memory_store.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import type { FileKey, PartialFile } from "../../packages/core/src/hub/store.ts";

/** A store that tells what it is given. */
export class WatchedStore extends MemoryStore {
  /** Bytes of each part that was kept. */
  parts: number[] = [];
  /** How many parts find room. */
  room: number = Number.POSITIVE_INFINITY;
  completed: number = 0;

  override async begin(key: FileKey, info: FileInfo): Promise<PartialFile> {
    const partial = await super.begin(key, info);
    const { append, complete } = partial;
    return Object.assign(partial, {
      append: async (chunks: readonly Uint8Array<ArrayBuffer>[], hash: Uint8Array | undefined) => {
        if (this.parts.length >= this.room) throw new QuotaError("no room");
        this.parts.push(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
        await append(chunks, hash);
      },
      complete: async () => {
        this.completed++;
        await complete();
      },
    });
  }
}
