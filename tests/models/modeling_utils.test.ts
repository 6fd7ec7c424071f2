/** ModelMixin.from_pretrained: which files are read, in which order, and what is wrong with them. */
import {
  cpSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DeviceError,
  DiffusersWebError,
  type ErrorDetails,
  IntegrityError,
  type LoadProgress,
  ModelNotFoundError,
  openSource,
  Tensor,
  UnsupportedModelError,
  WeightsMismatchError,
} from "@diffusers-web/core";
import { CLIPTextModel, UNet2DModel } from "@diffusers-web/models";
import { afterAll, describe, expect, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";
import { serveFolder } from "../support/server.ts";

const folder = mkdtempSync(join(tmpdir(), "models-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const single = fixturePath("quicktour/ddpm-tiny");
const sharded = fixturePath("loading/sharded");
const shardedHalf = fixturePath("loading/sharded-fp16");
const stem = "diffusion_pytorch_model";
const expected = JSON.parse(fixtureText("loading/sample.json")) as { float32: number[]; float16: number[] };
const ones = Tensor.ones([1, 2, 8, 8]);

/** A copy of a checkpoint, changed. */
function changed(from: string, change: (path: (file: string) => string) => void): string {
  const copy = mkdtempSync(join(folder, "checkpoint-"));
  cpSync(from, copy, { recursive: true });
  change((file) => join(copy, file));
  return copy;
}

async function failure(promise: Promise<unknown>): Promise<DiffusersWebError> {
  const error = await promise.then(
    () => new Error("it did not fail"),
    (caught: unknown) => caught,
  );
  expect(error, String(error)).toBeInstanceOf(DiffusersWebError);
  return error as DiffusersWebError;
}

describe("weight files", () => {
  test.each([
    ["in several files", sharded, {}, expected.float32],
    ["in several files of a variant", shardedHalf, { variant: "fp16" }, expected.float16],
    [
      "in several files of a variant, named as older releases did",
      changed(shardedHalf, (path) => {
        const [now, before] = [`${stem}.safetensors.index.fp16.json`, `${stem}.safetensors.fp16.index.json`];
        const rename = (name: string) => name.replace(/\.fp16-(\d+-of-\d+)/, "-$1.fp16");
        const index = JSON.parse(readFileSync(path(now), "utf8")) as { weight_map: Record<string, string> };
        for (const file of new Set(Object.values(index.weight_map))) renameSync(path(file), path(rename(file)));
        for (const [tensor, file] of Object.entries(index.weight_map)) index.weight_map[tensor] = rename(file);
        writeFileSync(path(before), JSON.stringify(index));
        unlinkSync(path(now));
      }),
      { variant: "fp16" },
      expected.float16,
    ],
  ])("%s", async (_name, path, options, output) => {
    await using model = await UNet2DModel.from_pretrained(path, { device: "wasm", ...options });
    const { sample } = await model(ones, 3);
    // fp32 on both sides, in another order of summing.
    expectClose(sample.data, output, 1e-5);
  });

  test("each file is asked for once, the likeliest first", async () => {
    const server = await serveFolder(fixturePath(""));
    const progress: LoadProgress[] = [];
    await using model = await UNet2DModel.from_pretrained(`${server.url}/quicktour/ddpm-tiny`, {
      device: "wasm",
      progress_callback: (step) => progress.push(step),
    });
    expect(server.requests).toEqual(["/quicktour/ddpm-tiny/config.json", `/quicktour/ddpm-tiny/${stem}.safetensors`]);
    expect([...new Set(progress.map(({ phase }) => phase))]).toEqual(["resolve", "download", "verify", "build"]);
    const downloads = progress.filter(({ phase }) => phase === "download");
    expect(downloads.at(-1)).toMatchObject({ file: `${stem}.safetensors`, loaded: 195132, total: 195132 });

    progress.length = 0;
    await model(Tensor.zeros([1, 3, 16, 16]), 1);
    expect([...new Set(progress.map(({ phase }) => phase))]).toEqual(["upload", "compile"]);
    expect(progress.at(-2)!.loaded).toBe(progress.at(-2)!.total);

    server.requests.length = 0;
    await using variant = await UNet2DModel.from_pretrained(`${server.url}/loading`, {
      subfolder: "sharded-fp16",
      variant: "fp16",
      device: "wasm",
    });
    expect(variant.config._name_or_path).toBe(`${server.url}/loading`);
    const weights = server.requests.filter((path) => path.endsWith(".safetensors"));
    expect(weights).toEqual(
      ["", "-00001-of-00002", "-00002-of-00002"].map((part) => `/loading/sharded-fp16/${stem}.fp16${part}.safetensors`),
    );
    await server.close();
  });

  test("a pickle is refused without being downloaded", async () => {
    const path = changed(single, (file) => {
      unlinkSync(file(`${stem}.safetensors`));
      writeFileSync(file(`${stem}.bin`), Buffer.alloc(30_000_000));
    });
    const server = await serveFolder(path);
    const error = await failure(UNet2DModel.from_pretrained(server.url));
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error.message).toMatch(/weights of UNet2DModel only as diffusion_pytorch_model\.bin, a pickle/);
    expect(error.details).toMatchObject({ file: `${stem}.bin`, className: "UNet2DModel" });
    await server.close();
  });
});

describe("what is wrong with a checkpoint", () => {
  const without = (file: string) => (path: (name: string) => string) => unlinkSync(path(file));
  const cases: [
    name: string,
    path: string,
    options: object,
    type: new (...args: never[]) => DiffusersWebError,
    message: RegExp,
    details: ErrorDetails,
  ][] = [
    ["no folder", join(folder, "nowhere"), {}, ModelNotFoundError, /There is no folder/, { expected: "a folder" }],
    [
      "no config",
      changed(single, without("config.json")),
      {},
      ModelNotFoundError,
      /has no config\.json, which UNet2DModel needs/,
      { file: "config.json" },
    ],
    [
      "a config that is not JSON",
      changed(single, (path) => truncateSync(path("config.json"), 30)),
      {},
      IntegrityError,
      /config\.json .* is not valid JSON/,
      { file: "config.json" },
    ],
    [
      "no weights",
      changed(single, without(`${stem}.safetensors`)),
      {},
      ModelNotFoundError,
      /no weights for UNet2DModel: looked for diffusion_pytorch_model\.safetensors, diffusion_pytorch_model\.safetensors\.index\.json, diffusion_pytorch_model\.bin/,
      { file: `${stem}.safetensors`, className: "UNet2DModel" },
    ],
    [
      "no weights of the variant",
      single,
      { variant: "fp16" },
      ModelNotFoundError,
      /looked for diffusion_pytorch_model\.fp16\.safetensors, .*but it has diffusion_pytorch_model\.safetensors: leave \{ variant \} out/,
      { field: "variant", found: `${stem}.safetensors` },
    ],
    [
      "weights of a variant only",
      shardedHalf,
      {},
      ModelNotFoundError,
      /but it has diffusion_pytorch_model\.safetensors\.index\.fp16\.json: pass \{ variant: "fp16" \}/,
      { field: "variant", found: `${stem}-*.safetensors` },
    ],
    [
      "a pickle of the variant",
      changed(single, (path) => {
        unlinkSync(path(`${stem}.safetensors`));
        writeFileSync(path(`${stem}.fp16.bin`), "PK");
      }),
      { variant: "fp16" },
      UnsupportedModelError,
      /only as diffusion_pytorch_model\.fp16\.bin, a pickle/,
      { file: `${stem}.fp16.bin` },
    ],
    [
      "truncated weights",
      changed(single, (path) => truncateSync(path(`${stem}.safetensors`), 100_000)),
      {},
      IntegrityError,
      /diffusion_pytorch_model\.safetensors, tensor .*: found a file of 100000 bytes \(truncated\?\)/,
      { file: `${stem}.safetensors` },
    ],
    [
      "a missing shard",
      changed(sharded, without(`${stem}-00002-of-00004.safetensors`)),
      {},
      ModelNotFoundError,
      /has no diffusion_pytorch_model-00002-of-00004\.safetensors, which its diffusion_pytorch_model\.safetensors\.index\.json names/,
      { file: `${stem}-00002-of-00004.safetensors` },
    ],
    [
      "a shard without its tensor",
      changed(sharded, (path) => {
        const index = path(`${stem}.safetensors.index.json`);
        writeFileSync(index, readFileSync(index, "utf8").replace('"conv_in.bias"', '"conv_in.bins"'));
      }),
      {},
      IntegrityError,
      /index\.json puts conv_in\.bins in diffusion_pytorch_model-0000\d-of-00004\.safetensors, which has no such tensor/,
      { tensors: ["conv_in.bins"] },
    ],
    [
      "a config that wants other weights",
      single,
      { block_out_channels: [8, 32] },
      WeightsMismatchError,
      /down_blocks\.1\.resnets\.0\.conv1\.weight: found \[16, 8, 3, 3\], expected \[32, 8, 3, 3\]/,
      { file: `${stem}.safetensors` },
    ],
    [
      "weights of fewer layers than the config wants",
      single,
      { layers_per_block: 2 },
      WeightsMismatchError,
      /down_blocks\.0\.resnets\.1\.conv1\.weight: found no such tensor, expected \[8, 8, 3, 3\]/,
      { found: "no such tensor" },
    ],
  ];
  test.each(cases)("%s", async (_name, path, options, type, message, details) => {
    const error = await failure(UNet2DModel.from_pretrained(path, { device: "wasm", ...options }));
    expect(error).toBeInstanceOf(type);
    expect(error.message).toMatch(message);
    expect(error.details).toMatchObject(details);
  });

  test("a transformers component's pickle has transformers' name", async () => {
    const path = mkdtempSync(join(folder, "clip-"));
    writeFileSync(join(path, "config.json"), "{}");
    writeFileSync(join(path, "pytorch_model.bin"), "PK");
    const error = await failure(CLIPTextModel.from_pretrained(path, { device: "wasm" }));
    expect(error.message).toMatch(/weights of CLIPTextModel only as pytorch_model\.bin/);
  });

  test("a tensor that the model has no place for; a buffer of old releases is none", async () => {
    const path = changed(single, (file) => {
      const name = file(`${stem}.safetensors`);
      writeFileSync(name, withExtraTensors(readFileSync(name)));
    });
    const error = await failure(UNet2DModel.from_pretrained(path, { device: "wasm" }));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.message).toMatch(
      /UNet2DModel with its config has no place for stray\.weight of diffusion_pytorch_model/,
    );
    expect(error.details).toMatchObject({ className: "UNet2DModel", tensors: ["stray.weight"] });
  });
});

/** A safetensors file with one more tensor at its end, and a buffer of old releases that means nothing now. */
function withExtraTensors(bytes: Buffer): Buffer {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, object>;
  const end = bytes.length - 8 - length;
  header["stray.weight"] = { dtype: "F32", shape: [1], data_offsets: [end, end + 4] };
  header["embeddings.position_ids"] = { dtype: "I64", shape: [1], data_offsets: [end + 4, end + 12] };
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([size, text, bytes.subarray(8 + length), Buffer.alloc(12)]);
}

describe("options", () => {
  test("an unknown one is refused, naming the nearest", async () => {
    const load = UNet2DModel.from_pretrained(single, { varient: "fp16" } as object);
    await expect(load).rejects.toThrow(
      new TypeError("UNet2DModel.from_pretrained got an unknown option `varient`. Did you mean `variant`?"),
    );
  });

  test("config fields override the file's", async () => {
    await using model = await UNet2DModel.from_pretrained(single, { device: "wasm", sample_size: 8 });
    expect(model.config.sample_size).toBe(8);
    expect(model.config.block_out_channels).toEqual([8, 16]);
    expect(() => {
      (model.config as { sample_size: number }).sample_size = 4;
    }).toThrow(TypeError);
  });

  test("a Source is taken as it is", async () => {
    const source = await openSource(fixturePath("quicktour"));
    await using model = await UNet2DModel.from_pretrained(source, { device: "wasm", subfolder: "ddpm-tiny" });
    expect(model.config._name_or_path).toBe(fixturePath("quicktour"));
  });

  test("cancelling", async () => {
    const reason = new DOMException("enough", "AbortError");
    await expect(UNet2DModel.from_pretrained(single, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const server = await serveFolder(single);
    const controller = new AbortController();
    const load = UNet2DModel.from_pretrained(server.url, {
      signal: controller.signal,
      progress_callback: ({ phase }) => phase === "download" && controller.abort(reason),
    });
    await expect(load).rejects.toBe(reason);
    await server.close();
  });
});

describe("a model", () => {
  const x = Tensor.ones([1, 2, 8, 8]);

  test("is a function, and calling it is calling forward", async () => {
    await using model = await UNet2DModel.from_pretrained(sharded, { device: "wasm" });
    expect(model).toBeInstanceOf(UNet2DModel);
    expect(typeof model).toBe("function");
    expect([model.device, model.dtype]).toEqual(["wasm", "float32"]);
    expect(model.device_info.reason).toBe("Asked for by name.");
    const { sample } = await model(x, 3);
    expect((await model.forward(x, 3)).sample.data).toEqual(sample.data);
  });

  test("takes overlapping calls of other sizes", async () => {
    await using model = await UNet2DModel.from_pretrained(sharded, { device: "wasm" });
    const larger = Tensor.ones([2, 2, 16, 8]);
    const calls = [x, larger, x, larger].map((sample) => model(sample, 3));
    const [a, b, c, d] = await Promise.all(calls);
    expectClose(a!.sample.data, expected.float32, 1e-5);
    expect(c!.sample.data).toEqual(a!.sample.data);
    expect(b!.sample.dims).toEqual([2, 2, 16, 8]);
    expect(d!.sample.data).toEqual(b!.sample.data);
  });

  test("moves, and stays where it is when it cannot", async () => {
    await using model = await UNet2DModel.from_pretrained(sharded, { device: "wasm" });
    expect(await model.to("wasm")).toBe(model);
    expect(await model.to("fp32")).toBe(model);
    for (const [target, message] of [
      ["webgpu", /There is no WebGPU here/],
      ["fp16", /computes in fp32 only/],
    ] as const) {
      const error = await failure(model.to(target));
      expect(error).toBeInstanceOf(DeviceError);
      expect(error.message).toMatch(message);
    }
    await expect(model.to("cuda" as "wasm")).rejects.toThrow('Unknown device "cuda"');
    await expect(model.to("float8" as "fp16")).rejects.toThrow('Unknown dtype "float8"');
    expect([model.device, model.dtype]).toEqual(["wasm", "float32"]);
    const { sample } = await model(x, 3);
    expectClose(sample.data, expected.float32, 1e-5);
  });

  test("is disposed of once the calls before are done", async () => {
    const model = await UNet2DModel.from_pretrained(sharded, { device: "wasm" });
    await model(x, 3);
    await Promise.all([model.dispose(), model.dispose()]);
    await model.dispose();
    const error = await failure(model(x, 3));
    expect(error.message).toMatch(/This UNet2DModel is disposed: load it again/);
    expect(() => model.device).toThrow(DeviceError);
    await failure(model.to("wasm"));
  });

  test("built from a config has no weights, and says so", async () => {
    const model = new UNet2DModel({ sample_size: 8 });
    const error = await failure(model(Tensor.ones([1, 3, 8, 8]), 3));
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect(error.message).toMatch(/has no weights: load it with UNet2DModel\.from_pretrained/);
    await model.dispose();
  });

  test("forgets a failed call", async () => {
    await using model = await UNet2DModel.from_pretrained(sharded, { device: "wasm" });
    await expect(model(Tensor.ones([1, 5, 8, 8]), 3)).rejects.toThrow();
    const { sample } = await model(x, 3);
    expectClose(sample.data, expected.float32, 1e-5);
  });
});
