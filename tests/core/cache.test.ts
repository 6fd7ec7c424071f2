/** The parts of the browser's cache that need no IndexedDB. What does is in tests/browser/cache*.spec.ts. */
import { cache, DeviceError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { openBlobs } from "../../packages/core/src/hub/blob_file.ts";
import {
  type CachedModel,
  cutParts,
  firstOf,
  type Manifest,
  modelsOf,
  partsToMerge,
} from "../../packages/core/src/hub/cache_records.ts";

const MB = 2 ** 20;

describe("small parts become one", () => {
  test.each<[parts: number[], size: number, merged: number, why: string]>([
    [[], 1, 0, "nothing before"],
    [[], 64, 0, "already whole"],
    [[8, 8], 8, 0, "together still small"],
    [[8, 8, 8], 8, 3, "together half of a part"],
    [[31, 31], 1, 2, "together nearly a part"],
    [[31, 31], 2, 2, "together a part"],
    [[31, 31], 3, 0, "together more than a part"],
    [[8, 32, 8, 8], 16, 2, "only those after a large one"],
    [[8, 8, 32], 31, 0, "a large one is not written again"],
    [Array(15).fill(1), 1, 0, "few"],
    [Array(16).fill(1), 1, 16, "many"],
  ])("%j and %d MiB more: %d (%s)", (parts, size, merged) => {
    const all = parts.map((part, id) => ({ id, size: part * MB }));
    expect(partsToMerge(all, size * MB)).toBe(merged);
  });
});

describe("what arrives is cut into parts of 64 MiB", () => {
  test.each<[chunks: number[], parts: number[]]>([
    [[], []],
    [[0], []],
    [[1, 2], [3]],
    [[64 * MB], [64 * MB]],
    [
      [64 * MB, 1],
      [64 * MB, 1],
    ],
    [
      [60 * MB, 8 * MB, 150 * MB],
      [64 * MB, 64 * MB, 64 * MB, 26 * MB],
    ],
  ])("%j", (chunks, expected) => {
    const buffer = new ArrayBuffer(Math.max(...chunks, 0));
    const parts = cutParts(chunks.map((size) => new Uint8Array(buffer, 0, size)));
    expect(parts.map((part) => part.reduce((sum, { length }) => sum + length, 0))).toEqual(expected);
    // Views, not copies.
    expect(parts.flat().every((piece) => piece.buffer === buffer)).toBe(true);
  });

  test("in order", () => {
    const bytes = new Uint8Array(65 * MB);
    bytes[64 * MB - 1] = 1;
    bytes[64 * MB] = 2;
    const [first, second] = cutParts([bytes.subarray(0, 10 * MB), bytes.subarray(10 * MB)]);
    expect([first!.at(-1)!.at(-1), second![0]![0]]).toEqual([1, 2]);
  });
});

test("files are of a model by endpoint, repository and commit", () => {
  const file = (repo: string, commit: string, used: number, whole: boolean, ...sizes: number[]): Manifest => ({
    ...{ endpoint: "https://hub.test", repo, commit, path: String(used), used, whole, stamp: 0 },
    ...{ size: 100, sha256: undefined, oid: undefined, hash: undefined },
    parts: sizes.map((size, id) => ({ id, size })),
  });
  const models = modelsOf([
    file("a", "1", 30, true, 5, 6),
    file("b", "1", 20, true, 7),
    file("a", "1", 10, false, 1),
    file("a", "2", 25, true),
  ]);
  const named = (all: readonly CachedModel[]): unknown[] =>
    all.map(({ repo, commit, bytes, files, whole, last_used }) => [
      repo,
      commit,
      bytes,
      files,
      whole,
      last_used.getTime(),
    ]);
  expect(named(models)).toEqual([
    ["b", "1", 7, 1, true, 20],
    ["a", "2", 0, 1, true, 25],
    ["a", "1", 12, 2, false, 30],
  ]);
  expect(named(firstOf(models, 8)).length).toBe(3);
  expect(named(firstOf(models, 7)).length).toBe(1);
});

test("without FileReaderSync a file's Blobs are read into memory", async () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i);
  const file = await openBlobs("a", [
    new Blob([bytes.subarray(0, 300)]),
    new Blob([]),
    new Blob([bytes.subarray(300)]),
  ]);
  expect(file.size).toBe(1000);
  expect(file.readSync(290, 310)).toEqual(bytes.subarray(290, 310));
  file.close();
  expect(file.readSync(0, 10).length).toBe(0);
});

test("in Node there is no cache of this kind, and that is said", async () => {
  await expect(cache.list()).rejects.toThrow(DeviceError);
  await expect(cache.clear()).rejects.toThrow(/IndexedDB/);
});
