/** Names and layouts of checkpoints in one file: tests/fixtures/models/make_single_file.py. */
import { AutoencoderKL, CLIPTextModel, UNet2DConditionModel } from "@diffusers-web/models";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { GraphBuilder } from "../../packages/models/src/graph/builder.ts";
import type { WeightSource } from "../../packages/models/src/graph/types.ts";
import { parseAddress } from "../../packages/models/src/single_file/address.ts";
import { singleFileComponents, strangers } from "../../packages/models/src/single_file/components.ts";
import { singleFileConfigs } from "../../packages/models/src/single_file/configs/index.ts";
import { detectKind, type SingleFileKind } from "../../packages/models/src/single_file/detect.ts";
import { mapTensors } from "../../packages/models/src/single_file/key_map.ts";
import { openClipKeys } from "../../packages/models/src/single_file/openclip_keys.ts";
import type { LazyTensor } from "../../packages/models/src/weight_transforms.ts";
import { fixtureGzip } from "../support/fixtures.ts";

beforeEach(() => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
});
afterEach(() => vi.mocked(console.warn).mockRestore());
const warnings = (): string => vi.mocked(console.warn).mock.calls.flat().join("\n");

describe("names and shapes of real checkpoints", () => {
  type Shapes = Record<string, number[]>;
  const names = JSON.parse(fixtureGzip("models/single_file/names.json.gz")) as Record<string, Record<string, Shapes>>;
  const classes = { unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel };
  const lazy = (shapes: Shapes): Map<string, LazyTensor> =>
    new Map(
      Object.entries(shapes).map(([name, shape]) => [
        name,
        { dtype: "F16", shape, file: "a.safetensors", read: () => new Uint8Array(0) },
      ]),
    );
  const source = (shapes: Shapes): WeightSource => ({
    file: "a.safetensors",
    names: () => Object.keys(shapes),
    shape: (name) => shapes[name],
    dtype: () => "F32",
    read: (name) => new Uint8Array(shapes[name]!.reduce((product, dim) => product * dim, 4)),
  });
  const components = Object.keys(names).flatMap((kind) =>
    Object.keys(names[kind]!)
      .filter((folder) => folder !== "file")
      .map((folder) => [kind, folder] as const),
  );

  test.each(Object.keys(names))("%s is recognised, and each of its tensors known", (kind) => {
    const { file } = names[kind]!;
    expect(detectKind(source(file!))).toBe(kind);
    expect(strangers(Object.keys(file!))).toEqual([]);
  });

  // Shapes of single tensors decide between kinds that have the same names.
  const unet = (inputs: number, text?: number): Shapes => ({
    "model.diffusion_model.input_blocks.0.0.weight": [320, inputs, 3, 3],
    ...(text && { "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": [640, text] }),
  });
  const embedder = (which: number): Shapes => ({
    [`conditioner.embedders.${which}.model.transformer.resblocks.9.mlp.c_proj.bias`]: [1280],
  });
  test.each<[string, Shapes]>([
    ["inpainting_v2", unet(9, 1024)],
    ["xl_inpaint", { ...unet(9, 2048), ...embedder(1) }],
    ["inpainting", unet(9, 768)],
    ["v2", unet(5, 1024)],
    ["playground-v2-5", { ...unet(4, 2048), ...embedder(1), edm_mean: [4] }],
    ["xl_base", { ...unet(4, 2048), ...embedder(1) }],
    ["xl_refiner", { ...unet(4, 1280), ...embedder(0) }],
    ["upscale", { ...unet(7), "model.diffusion_model.input_blocks.10.0.skip_connection.bias": [1024] }],
    ["instruct-pix2pix", unet(8, 768)],
    // A UNet decides, whatever lies beside it.
    ["v1", { ...unet(4, 768), "control_model.time_embed.0.weight": [1280, 320] }],
    ["v1", { "encoder.down.0.block.0.conv1.weight": [128, 128, 3, 3] }],
  ])("%s is told apart", (kind, shapes) => {
    expect(detectKind(source(shapes))).toBe(kind);
  });

  test.each(components)("%s: the %s has exactly Diffusers' state dict", (kind, folder) => {
    const { file, [folder]: state } = names[kind]!;
    const component = Object.values(singleFileComponents).find((one) => one.folder === folder)!;
    const layout = component.layouts.find(({ prefix, telltale }) =>
      Object.keys(file!).some((name) => name.startsWith(prefix) && telltale.test(name.slice(prefix.length))),
    )!;
    const configs = singleFileConfigs[kind as SingleFileKind] as unknown as Record<string, object>;
    const cls = classes[folder as keyof typeof classes];
    // The second text encoder's class is not built yet.
    const config = cls === undefined ? { num_hidden_layers: 32 } : cls.from_config(configs[folder]!).config;
    const mapped = mapTensors(lazy(file!), layout.prefix, layout.keys(config as never));
    const shapes = Object.fromEntries([...mapped].map(([name, { shape }]) => [name, shape]));
    expect(shapes).toEqual(state);
    if (cls === undefined) return;

    // The config that is written down here builds a model of just these tensors.
    const model = cls.from_config(configs[folder]!) as unknown as {
      check(build: (emit: (g: GraphBuilder) => void) => void): void;
    };
    const used = new Set<string>();
    const fused = {
      attention: true,
      groupNorm: false,
      biasSplitGelu: false,
      quickGelu: true,
      skipLayerNorm: true,
    };
    model.check((emit) => {
      const g = new GraphBuilder(source(shapes as Shapes), { layout: "nchw", dtype: "float32", fused });
      emit(g);
      g.build();
      for (const name of g.used) used.add(name);
    });
    expect([...used].sort()).toEqual(Object.keys(state!).sort());
    expect(warnings()).toBe("");
  });
});

test("OpenCLIP: q, k and v are the thirds of one layer, and the projection is turned", () => {
  const tensors = new Map<string, LazyTensor>([
    ["p.transformer.resblocks.0.attn.in_proj_bias", lazyTensor([6], [0, 1, 2, 3, 4, 5])],
    ["p.text_projection", lazyTensor([2, 3], [0, 1, 2, 3, 4, 5])],
    ["p.transformer.resblocks.1.ln_1.bias", lazyTensor([2], [0, 1])],
    ["p.unknown", lazyTensor([1], [0])],
    ["other", lazyTensor([1], [0])],
  ]);
  const mapped = mapTensors(tensors, "p.", openClipKeys({ num_hidden_layers: 1, with_projection: true }));
  expect(Object.fromEntries([...mapped].map(([name, { shape, read }]) => [name, [shape, [...read()]]]))).toEqual({
    "text_model.encoder.layers.0.self_attn.q_proj.bias": [[2], [0, 1]],
    "text_model.encoder.layers.0.self_attn.k_proj.bias": [[2], [2, 3]],
    "text_model.encoder.layers.0.self_attn.v_proj.bias": [[2], [4, 5]],
    "text_projection.weight": [
      [3, 2],
      [0, 3, 1, 4, 2, 5],
    ],
    // Keeps its name, so that the model says that it does not use it.
    "p.unknown": [[1], [0]],
  });
});

function lazyTensor(shape: number[], values: number[]): LazyTensor {
  return { dtype: "U8", shape, file: "a.safetensors", read: () => Uint8Array.from(values) };
}

test.each<[string, string | undefined, object]>([
  [
    "https://huggingface.co/a/b/blob/main/x.safetensors",
    undefined,
    { source: "a/b", file: "x.safetensors", revision: "main" },
  ],
  [
    "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/d/x%20y.safetensors?download=true",
    undefined,
    { source: "a/b", file: "d/x y.safetensors", revision: "refs/pr/1" },
  ],
  ["hf.co/a/b/d/x.safetensors", undefined, { source: "a/b", file: "d/x.safetensors" }],
  ["a/b/x.safetensors", undefined, { source: "a/b", file: "x.safetensors" }],
  [
    "http://mirror:8000/hub/a/b/resolve/v1/x.safetensors",
    "http://mirror:8000/hub/",
    { source: "a/b", file: "x.safetensors", revision: "v1" },
  ],
  [
    "https://example.com/api/models/123?type=Model",
    undefined,
    { source: new URL("https://example.com/api/models/?type=Model"), file: "123" },
  ],
  ["./d/x.safetensors", undefined, { source: "./d", file: "x.safetensors" }],
  ["x.safetensors", undefined, { source: ".", file: "x.safetensors" }],
  ["file:///d/x%20y.safetensors", undefined, { source: "/d", file: "x y.safetensors" }],
])("the address %s", async (text, endpoint, address) => {
  expect(await parseAddress(text, endpoint)).toEqual(address);
});
