/** Checkpoints in one file: tests/fixtures/models/make_single_file.py, which Diffusers' own loader has read. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import {
  type ErrorDetails,
  type LoadProgress,
  ModelNotFoundError,
  openSource,
  type Source,
  Tensor,
  UnsupportedModelError,
  WeightsMismatchError,
} from "@diffusers-web/core";
import {
  AutoencoderKL,
  CLIPTextModel,
  SingleFileCheckpoint,
  type SingleFileSource,
  UNet2DConditionModel,
  UNet2DModel,
} from "@diffusers-web/models";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { startHub } from "../support/hub_server.mjs";
import { memoryFile, safetensors } from "../support/safetensors.ts";
import { serveFolder } from "../support/server.ts";

const at = (name: string): string => fixturePath(`models/single_file/${name}`);
const expected = fixtureTensors("models/single_file/expected.safetensors");
const tensor = (name: string): Tensor => {
  const { data, dims } = expected[name]!;
  return new Tensor("float32", data as Float32Array, dims);
};
const wasm = { device: "wasm" } as const;
// float32 on both sides; at most 1.5e-6 of the scale was measured, the issue asks for 1e-4.
const tolerance = 2e-5;

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

function expectSame(name: string, output: Tensor): void {
  expect(output.dims).toEqual(expected[name]!.dims);
  expectClose(output.data, expected[name]!.data as Float32Array, tolerance, name);
}

/** A source whose one file is in memory. */
function inMemory(bytes: Uint8Array, file = "a.safetensors"): { source: Source; file: string } {
  return { source: { name: "memory", open: async () => memoryFile(bytes, file) }, file };
}

/** A file of tensors without elements that matter. */
function named(...names: string[]): { source: Source; file: string } {
  return inMemory(safetensors(Object.fromEntries(names.map((name) => [name, ["F32", [1], 4] as const]))));
}

async function failure(promise: Promise<unknown>): Promise<Error & { details: ErrorDetails }> {
  const error = await promise.then(
    () => new Error("it did not fail"),
    (caught: unknown) => caught,
  );
  return error as Error & { details: ErrorDetails };
}

describe("models compute what Diffusers computes with the same file", () => {
  test.each(["sd1", "sd2", "xl"])("UNet2DConditionModel of %s", async (kind) => {
    const file = at(`${kind}.safetensors`);
    await using unet = await UNet2DConditionModel.from_single_file(file, { ...wasm, config: at(kind) });
    const added_cond_kwargs =
      kind === "xl" ? { text_embeds: tensor("xl/text_embeds"), time_ids: tensor("xl/time_ids") } : undefined;
    const { sample } = await unet(tensor(`${kind}/sample`), 7, tensor(`${kind}/encoder_hidden_states`), {
      added_cond_kwargs,
    });
    expectSame(`${kind}/unet`, sample);
    expect(warnings()).toBe("");
  });

  test.each(["sd1", "sd2"])("AutoencoderKL of %s", async (kind) => {
    const file = at(`${kind}.safetensors`);
    await using vae = await AutoencoderKL.from_single_file(file, { ...wasm, config: at(kind) });
    expectSame(`${kind}/decode`, (await vae.decode(tensor(`${kind}/z`))).sample);
    expectSame(`${kind}/encode`, (await vae.encode(tensor(`${kind}/x`))).latent_dist.mean);
    expect(warnings()).toBe("");
  });

  test.each(["sd1", "sd2", "xl"])("CLIPTextModel of %s", async (kind) => {
    const file = at(`${kind}.safetensors`);
    await using text = await CLIPTextModel.from_single_file(file, { ...wasm, config: at(kind) });
    const { data, dims } = expected[`${kind}/input_ids`]!;
    const output = await text(new Tensor("int64", data as BigInt64Array, dims));
    expectSame(`${kind}/last_hidden_state`, output.last_hidden_state);
    expectSame(`${kind}/pooler_output`, output.pooler_output);
    expect(warnings()).toBe("");
  });
});

describe("a file", () => {
  test("is opened once for all of its models, and closed after the last of them", async () => {
    const folder = await openSource(dirname(at("sd1.safetensors")));
    let opened = 0;
    let closed = 0;
    const reads: [begin: number, end: number][] = [];
    const source: Source = {
      name: "counted",
      open: async (path, options) => {
        const file = (await folder.open(path, options))!;
        opened++;
        return {
          path,
          size: file.size,
          readSync: (begin, end) => {
            reads.push([begin, end]);
            return file.readSync(begin, end);
          },
          close: () => {
            closed++;
            file.close();
          },
        };
      },
    };
    const file = await SingleFileCheckpoint.open({ source, file: "sd1.safetensors" });
    expect(file.kind).toBe("v1");
    const options = { ...wasm, config: at("sd1") };
    const vae = await AutoencoderKL.from_single_file(file, options);
    // The header, and no weight.
    const header = Number(new DataView(readFileSync(at("sd1.safetensors")).buffer).getBigUint64(0, true));
    expect(Math.max(...reads.map(([, end]) => end))).toBe(8 + header);
    const text = await CLIPTextModel.from_single_file(file, options);
    file.close();
    await vae.dispose();
    await vae.dispose();
    expect([opened, closed]).toEqual([1, 0]);
    // Still readable.
    const { data, dims } = expected["sd1/input_ids"]!;
    const output = await text(new Tensor("int64", data as BigInt64Array, dims));
    expectSame("sd1/last_hidden_state", output.last_hidden_state);
    await text.dispose();
    expect([opened, closed]).toEqual([1, 1]);

    // A model that does not fit leaves nothing open either.
    await failure(UNet2DConditionModel.from_single_file({ source, file: "sd1.safetensors" }, wasm));
    expect([opened, closed]).toEqual([2, 2]);
  });

  test("is fetched from any address, and nothing else with it", async () => {
    const server = await serveFolder(dirname(at("sd1.safetensors")));
    const url = `${server.url}/sd1.safetensors?token=x`;
    await using text = await CLIPTextModel.from_single_file(url, { ...wasm, config: at("sd1") });
    expect(text.config.num_hidden_layers).toBe(3);
    expect(server.requests).toEqual(["/sd1.safetensors"]);
    await server.close();
  });

  test("is found on the hub by its address, at its revision, and downloaded once", async () => {
    const [main, other] = ["a".repeat(40), "b".repeat(40)] as const;
    const files = { "d/sd1.safetensors": readFileSync(at("sd1.safetensors")), "other.safetensors": "x" };
    const hub = await startHub({
      repos: { "owner/name": { revisions: { main: other, v1: main }, commits: { [main]: files, [other]: {} } } },
    });
    const cache_dir = mkdtempSync(join(tmpdir(), "single-file-"));
    const options = { ...wasm, config: at("sd1"), endpoint: hub.url, cache_dir };
    const events: LoadProgress[] = [];
    const address = `${hub.url}/owner/name/blob/v1/d/sd1.safetensors`;
    for (const progress_callback of [(event: LoadProgress) => events.push(event), undefined]) {
      await using text = await CLIPTextModel.from_single_file(address, { ...options, progress_callback });
      expect(text.config.hidden_size).toBe(8);
    }
    await using again = await CLIPTextModel.from_single_file("owner/name/d/sd1.safetensors", {
      ...options,
      revision: "v1",
      local_files_only: true,
    });
    expect(again.config.hidden_size).toBe(8);
    expect(hub.requests.map(({ kind, file }) => file ?? kind)).toEqual([
      ...["api:revision", "api:tree", "d/sd1.safetensors", "d/sd1.safetensors"],
    ]);
    const size = files["d/sd1.safetensors"].length;
    expect(events.at(-1)).toMatchObject({ phase: "build", loaded_bytes: size, total_bytes: size, loaded_files: 1 });
    expect(events.find(({ phase }) => phase === "download")).toMatchObject({ total_bytes: size });
    await hub.close();
    rmSync(cache_dir, { recursive: true });
  });

  test("may be a File, also one of a chosen folder", async () => {
    const bytes = readFileSync(at("sd1.safetensors"));
    for (const path of ["", "models/sd/sd1.safetensors"]) {
      const file = Object.assign(new File([bytes], "sd1.safetensors"), { webkitRelativePath: path });
      await using vae = await AutoencoderKL.from_single_file(file, { ...wasm, config: at("sd1") });
      expectSame("sd1/decode", (await vae.decode(tensor("sd1/z"))).sample);
    }
  });

  test("of one model alone, under the original names or Diffusers'", async () => {
    const bare = new Map<string, string>([
      ["first_stage_model.", ""],
      ["cond_stage_model.transformer.", ""],
    ]);
    const bytes = (kept: string): Uint8Array => {
      const file = readFileSync(at("sd1.safetensors"));
      const length = Number(file.readBigUInt64LE(0));
      const header = JSON.parse(file.toString("utf8", 8, 8 + length)) as Record<string, { data_offsets: number[] }>;
      const parts: Uint8Array[] = [];
      const cut: Record<string, object> = {};
      let end = 0;
      for (const [name, entry] of Object.entries(header)) {
        if (!name.startsWith(kept)) continue;
        const [from, to] = entry.data_offsets as [number, number];
        parts.push(file.subarray(8 + length + from, 8 + length + to));
        cut[bare.get(kept)! + name.slice(kept.length)] = { ...entry, data_offsets: [end, end + to - from] };
        end += to - from;
      }
      const text = Buffer.from(JSON.stringify(cut));
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(text.length));
      return new Uint8Array(Buffer.concat([size, text, ...parts]));
    };
    await using vae = await AutoencoderKL.from_single_file(inMemory(bytes("first_stage_model.")), {
      ...wasm,
      config: at("sd1"),
      subfolder: "vae",
      scaling_factor: 0.5,
    });
    expect(vae.config.scaling_factor).toBe(0.5);
    expectSame("sd1/decode", (await vae.decode(tensor("sd1/z"))).sample);
    await using text = await CLIPTextModel.from_single_file(inMemory(bytes("cond_stage_model.transformer.")), {
      ...wasm,
      config: at("sd1/text_encoder"),
    });
    expect(text.config.hidden_size).toBe(8);
    expect(warnings()).toBe("");
  });

  test("with tensors of no model: they are named", async () => {
    const unet = "model.diffusion_model.input_blocks.0.0.bias";
    (await SingleFileCheckpoint.open(named(unet, "betas", "model_ema.decay", "control_scale", "my.extra"))).close();
    expect(warnings()).toBe("a.safetensors: control_scale, my.extra belong to no model that is read; left out.");
  });
});

describe("what is refused", () => {
  const unet = (from: SingleFileSource, options: object = {}) =>
    UNet2DConditionModel.from_single_file(from, { ...wasm, ...options });
  const zip = new Uint8Array([0x50, 0x4b, 3, 4, 0, 0, 0, 0, 0, 0]);

  test.each<[string, () => Promise<unknown>, new (...args: never[]) => Error, string]>([
    ["a .ckpt", () => unet("models/v1-5.ckpt"), UnsupportedModelError, "v1-5.ckpt is a pickle"],
    [
      "a .ckpt on the hub",
      () => unet("https://hf.co/a/b/blob/main/x.CKPT"),
      UnsupportedModelError,
      "x.CKPT is a pickle",
    ],
    ["a pickle by its bytes", () => unet(inMemory(zip, "12345")), UnsupportedModelError, "12345 is a pickle"],
    ["a .gguf", () => unet("./sd.gguf"), UnsupportedModelError, "sd.gguf is no safetensors file"],
    ["no such file", () => unet(at("sd3.safetensors")), ModelNotFoundError, "has no file sd3.safetensors"],
    [
      "original_config",
      () => unet(at("sd1.safetensors"), { original_config: "v1.yaml" }),
      UnsupportedModelError,
      "`original_config`",
    ],
    ["an unknown option", () => unet(at("sd1.safetensors"), { confg: "x" }), TypeError, "Did you mean `config`?"],
    [
      "another class",
      () => UNet2DModel.from_single_file(at("sd1.safetensors")),
      UnsupportedModelError,
      "UNet2DModel is not read",
    ],
    [
      "a file of another config",
      () => unet(at("sd1.safetensors")),
      WeightsMismatchError,
      "sd1.safetensors (unet) does not fit",
    ],
    [
      "no config in the folder",
      () => unet(at("sd1.safetensors"), { config: at("sd1"), subfolder: "x" }),
      ModelNotFoundError,
      "x/config.json",
    ],
    [
      "a file without the model",
      () => unet(named("first_stage_model.encoder.conv_in.bias")),
      WeightsMismatchError,
      "unet: await UNet2DConditionModel.from_pretrained",
    ],
    ["a LoRA", () => unet(named("lora_unet_down_blocks_0.lora_down.weight")), UnsupportedModelError, "a LoRA"],
    [
      "a FLUX model",
      () => unet(named("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale")),
      UnsupportedModelError,
      "a FLUX model",
    ],
    ["anything else", () => unet(named("layer.weight")), UnsupportedModelError, "no model that is known"],
    [
      "a kind without a config",
      () => unet(named("edm_mean", "model.diffusion_model.input_blocks.0.0.bias")),
      UnsupportedModelError,
      "Pass { config }",
    ],
    ["no address", () => unet(5 as never), TypeError, "got number"],
  ])("%s", async (_, load, type, message) => {
    const error = await failure(load());
    expect(error, String(error)).toBeInstanceOf(type);
    expect(error.message).toContain(message);
  });
});
