/** ONNX exports that cannot be loaded, or lack something: each error names the file and what to do. */
import { cpSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import {
  DDIMScheduler,
  DiffusionPipeline,
  IntegrityError,
  ModelNotFoundError,
  type PipelineLoadOptions,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { checkpoint, failure } from "../support/onnx_exports.ts";

const load = (path: string, options: PipelineLoadOptions = {}) =>
  DiffusionPipeline.from_pretrained(path, { device: "wasm", ...options });
beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());

describe("what is wrong", () => {
  const cases: [
    name: string,
    layout: string,
    change: (file: (name: string) => string) => void,
    error: abstract new (...args: never[]) => Error,
    message: RegExp,
  ][] = [
    [
      "a missing decoder",
      "optimum",
      (file) => unlinkSync(file("vae_decoder/model.onnx")),
      ModelNotFoundError,
      /no vae_decoder\/model\.onnx, which ORTVae needs/,
    ],
    [
      "another model's graph",
      "optimum",
      (file) => cpSync(file("vae_decoder/model.onnx"), file("unet/model.onnx")),
      UnsupportedModelError,
      /unet\/model\.onnx: the graph asks for the input `latent_sample`, which nothing here feeds.*ORTUnet knows sample, timestep/,
    ],
    [
      "a truncated graph",
      "optimum",
      (file) => truncateSync(file("vae_decoder/model.onnx"), 50_000),
      IntegrityError,
      /vae_decoder\/model\.onnx: found a file of 50000 bytes \(truncated\?\)/,
    ],
    [
      "truncated weights",
      "optimum",
      (file) => truncateSync(file("unet/model.onnx_data"), 100_000),
      IntegrityError,
      /unet\/model\.onnx_data, tensor .*: found a file of 100000 bytes/,
    ],
    [
      "a file that is no protobuf",
      "optimum",
      (file) => writeFileSync(file("unet/model.onnx"), Buffer.alloc(1000, 0xff)),
      IntegrityError,
      /unet\/model\.onnx: found .* expected an ONNX model/,
    ],
    [
      "a Git LFS pointer",
      "diffusers",
      (file) => writeFileSync(file("text_encoder/model.onnx"), "version https://git-lfs.github.com/spec/v1\n"),
      IntegrityError,
      /text_encoder\/model\.onnx: found a Git LFS pointer/,
    ],
    [
      "an empty file",
      "diffusers",
      (file) => writeFileSync(file("text_encoder/model.onnx"), ""),
      IntegrityError,
      /text_encoder\/model\.onnx: found no graph/,
    ],
    [
      "weights outside of the folder",
      "diffusers",
      (file) => {
        const bytes = readFileSync(file("unet/model.onnx"), "latin1").replaceAll("weights.pb", "../pb/..pb");
        writeFileSync(file("unet/model.onnx"), bytes, "latin1");
      },
      UnsupportedModelError,
      /puts weights in \.\.\/pb\/\.\.pb, which is not a file in its folder/,
    ],
  ];
  test.each(cases)("%s", async (_, layout, change, type, message) => {
    const error = await failure(load(checkpoint(layout, change)));
    expect(error).toBeInstanceOf(type);
    expect(error.message).toMatch(message);
  });

  test("without an encoder pictures are decoded, not encoded", async () => {
    const path = checkpoint("optimum", (file) => rmSync(file("vae_encoder"), { recursive: true }));
    await using pipeline = await load(path);
    const { sample } = await pipeline.vae.decode(Tensor.ones([1, 4, 2, 2]));
    expect(sample.dims).toEqual([1, 3, 8, 8]);
    const error = await failure(pipeline.vae.encode(Tensor.ones([1, 3, 8, 8])));
    expect(error.message).toMatch(/without its vae_encoder\/model\.onnx/);
  });

  test("a dtype that is not the export's", async () => {
    const error = await failure(load(checkpoint("diffusers"), { dtype: "fp32" }));
    expect(error).toBeInstanceOf(ValueError);
    expect(error.message).toMatch(/ONNX export in float16/);
  });

  test("a variant", async () => {
    await expect(load(checkpoint("diffusers"), { variant: "fp16" })).rejects.toThrow(/variant "fp16"/);
  });

  test("a pipeline that is disposed", async () => {
    const pipeline = await load(checkpoint("optimum"), { scheduler: new DDIMScheduler() });
    await pipeline.dispose();
    await pipeline.dispose();
    await expect(pipeline("a cat")).rejects.toThrow(/disposed/);
  });
});
