import { readFileSync } from "node:fs";
import {
  type FileInfo,
  Generator,
  openSource,
  RawImage,
  type Source,
  StableDiffusionPipeline,
  type Tensor,
} from "@diffusers-web/pipelines";
import { expect } from "vitest";
import { fixturePath } from "./fixtures.ts";

/** Laid out as h94/IP-Adapter: tests/fixtures/pipelines/make_ip_adapter.py. */
export const repo: string = fixturePath("pipelines/ip-adapter-tiny");
export const device = "wasm";
/** Where two adapters of sd1-tiny are in it. */
export const base = { subfolder: "models", weight_name: "ip-adapter_sd.safetensors" } as const;
export const plus = { subfolder: "models", weight_name: "ip-adapter-plus_sd.safetensors" } as const;
const pixels = Uint8Array.from({ length: 30 * 24 * 3 }, (_, i) => (i * 37) % 256);
export const picture: RawImage = new RawImage(pixels, 30, 24, 3);
/** A call of one step. */
export const call = { num_inference_steps: 1, output_type: "latent" } as const;

/** A pipeline without adapters. */
export async function load(): Promise<StableDiffusionPipeline> {
  return StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), { device });
}

/** The latents that a call makes. */
export async function draw(pipeline: StableDiffusionPipeline, options: object = {}): Promise<Float32Array> {
  const generator = new Generator().manual_seed(0);
  return ((await pipeline("a cat", { ...call, generator, ...options })).images as unknown as Tensor).data;
}

/** What becomes of a file's bytes; undefined for one that is not there. */
export type Change = (path: string, bytes: Uint8Array) => Uint8Array | undefined;

interface Watched {
  readonly source: Source;
  /** Paths, in order. */
  readonly opened: readonly string[];
  /** Those that are not closed. */
  readonly open: ReadonlySet<string>;
}

/** The adapters' repository, with a list of what is opened and of the files that are open. */
export async function watched(change: Change = (_, bytes) => bytes): Promise<Watched> {
  const from = await openSource(repo);
  const opened: string[] = [];
  const open = new Set<string>();
  const source: Source = {
    name: "watched",
    list: async () =>
      (await from.list!()).filter(({ path }) => change(path, new Uint8Array(0)) !== undefined) as FileInfo[],
    open: async (path) => {
      const file = await from.open(path);
      if (file === undefined) return undefined;
      const bytes = change(path, file.readSync(0, file.size).slice());
      file.close();
      if (bytes === undefined) return undefined;
      opened.push(path);
      open.add(path);
      return {
        path,
        size: bytes.length,
        readSync: (begin, end) => {
          expect(open).toContain(path);
          return bytes.subarray(begin, end);
        },
        close: () => open.delete(path),
      };
    },
  };
  return { source, opened, open };
}

/** The file of `base` with a tensor more, which is empty. */
export function baseWith(name: string): Uint8Array {
  const plain = readFileSync(`${repo}/models/${base.weight_name}`);
  const size = Number(plain.readBigUInt64LE(0));
  const header = JSON.parse(plain.toString("utf8", 8, 8 + size)) as Record<string, object>;
  const text = Buffer.from(JSON.stringify({ ...header, [name]: { dtype: "F16", shape: [0], data_offsets: [0, 0] } }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, plain.subarray(8 + size)]);
}
