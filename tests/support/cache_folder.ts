import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "vitest";
import { openNodeStore } from "../../packages/core/src/hub/node_store.ts";
import type { FileInfo } from "../../packages/core/src/hub/source.ts";
import type { FileKey, HubStore, RepoKey } from "../../packages/core/src/hub/store.ts";
import { fixtureText } from "./fixtures.ts";

export type Entries = Record<string, { link: string } | { text: string }>;

/** What tests/fixtures/hub/make_cache_layout.py wrote. */
export const cacheLayout = JSON.parse(fixtureText("hub/cache_layout.json")) as {
  repo: string;
  revisions: Record<string, string>;
  commits: Record<string, Record<string, string>>;
  layouts: Record<"links" | "copies", Entries>;
  home: string;
  folders: { env: Record<string, string>; folder: string }[];
};

export const commit: string = cacheLayout.revisions["main"]!;
export const second: string = cacheLayout.revisions["refs/pr/1"]!;
export const repoKey: RepoKey = { endpoint: "http://127.0.0.1:9", repo: cacheLayout.repo };
export const repoFolder: string = `models--${repoKey.repo.replace("/", "--")}`;
export const key: FileKey = { ...repoKey, commit, path: "unet/weights.safetensors" };
export const sha256: string = "ab".repeat(32);
export const bytes = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

/** A cache folder, empty at the start of each test, and a store on it. */
export class CacheFolder {
  path = "";
  store!: HubStore;

  constructor() {
    beforeEach(async () => {
      this.path = fs.mkdtempSync(join(tmpdir(), "hub-cache-"));
      this.store = await openNodeStore({ cache_dir: this.path });
    });
    afterEach(() => fs.rmSync(this.path, { recursive: true }));
  }

  /** A path below the repository's folder. */
  inside(path: string): string {
    return join(this.path, repoFolder, path);
  }

  names(): string[] {
    return fs.readdirSync(this.path, { recursive: true, encoding: "utf8" }).sort();
  }

  /** Makes a whole file. */
  async put(path: string, text: string, extra: Partial<FileInfo> = {}, at: string = commit): Promise<void> {
    const partial = await this.store.begin({ ...key, commit: at, path }, { path, size: text.length, ...extra });
    await partial.append([bytes(text)], undefined);
    await partial.complete();
  }
}
