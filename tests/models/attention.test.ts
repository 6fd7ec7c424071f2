/** What attention layers are told besides the text: what is not a plain case of unet_attention.py. */
import { Tensor, UnsupportedModelError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import { type ModelMixin, UNet2DConditionModel, type UNet2DConditionOptions } from "@diffusers-web/models";
import { afterEach, describe, expect, it, vi } from "vitest";
import { type AttentionSlice, GraphBuilder, type Value } from "../../packages/models/src/graph/builder.ts";
import type { Target, WeightSource } from "../../packages/models/src/graph/types.ts";
import { scaledDotProductAttention } from "../../packages/models/src/layers/attention.ts";
import { tokensInput } from "../../packages/models/src/layers/layout.ts";
import { getDevice } from "../../packages/models/src/runtime/device.ts";
import { createSession } from "../../packages/models/src/runtime/session.ts";
import { downsampleMask } from "../../packages/models/src/unets/ip_adapter_masks.ts";
import type { Weights } from "../../packages/models/src/weights.ts";
import { compare } from "../support/allclose.ts";
import { caseInputs, caseSource, runCase } from "./cases.ts";
import { architectures, caseOutputs, caseShapes, modelCases } from "./cases_node.ts";
import { seeded } from "./formula.ts";
import { adapterWeights, type UNetSetup } from "./runners/unet_attention_setup.ts";

const plain: Target = {
  layout: "nchw",
  dtype: "float32",
  fused: { attention: false, groupNorm: false, biasSplitGelu: false, quickGelu: false, skipLayerNorm: false },
};

function caseNamed(key: string): (typeof modelCases)[number] {
  return modelCases.find(({ name }) => name === `UNet2DConditionModel/${key}`)!;
}

async function load(key: string): Promise<UNet2DConditionModel> {
  const one = caseNamed(key);
  return UNet2DConditionModel.from_pretrained(caseSource(one, caseShapes[one.name]!), { device: "wasm" });
}

function setTarget(model: ModelMixin<object>, target: Target): void {
  const { loaded } = model as unknown as { loaded: { device: { target: Target } } };
  loaded.device = { ...loaded.device, target };
}

describe("attention slices", () => {
  const names = ["attention_slice", "attention_slice_max", "attention_slice_3", "attention_slice_mask"];
  it.each(names)("%s, from plain operators: what Diffusers computes", async (key) => {
    const { name } = caseNamed(key);
    const { sample } = await runCase(caseNamed(key), caseShapes[name]!, { device: "wasm" }, (m) => setTarget(m, plain));
    const { error, scale } = compare(sample!.data, caseOutputs[`${name}/sample`]!.data as Float32Array);
    expect(error).toBeLessThanOrEqual(2e-5 * scale);
  });

  /** Remembers the size of all that its operators give. */
  class MeasuringBuilder extends GraphBuilder {
    largest = 0;

    override ops(...args: Parameters<GraphBuilder["ops"]>): readonly Value[] {
      for (const dims of args[2])
        this.largest = Math.max(
          this.largest,
          dims.reduce((a, b) => a * b, 1),
        );
      return super.ops(...args);
    }
  }

  const batch = 2;
  const heads = 8;
  const length = 256;
  const channels = 32;

  function emit(g: GraphBuilder, slice: AttentionSlice | null, tokens = length, items = batch): void {
    g.attentionSlice = slice;
    const [q, k, v] = ["q", "k", "v"].map((name) => tokensInput(g, name, [items, tokens, channels]));
    const mask = g.input("mask", [items, 1, 1, tokens]);
    const mixed = scaledDotProductAttention(g, q!, k!, v!, { heads, mask });
    g.output("out", mixed.value);
  }

  it.each<[AttentionSlice | null, number]>([
    // All heads of the batch; half of one picture's; one; three at most.
    [null, batch * heads],
    ["auto", heads / 2],
    ["max", 1],
    [3, 3],
  ])("%s: the largest intermediate has the scores of %d heads", (slice, together) => {
    const g = new MeasuringBuilder(adapterWeights([]), plain);
    emit(g, slice);
    expect(g.largest).toBe(together * length * length);
  });

  it.each<[AttentionSlice | null, number]>([
    [null, 2 * 4],
    ["auto", 2],
    ["max", 1],
  ])("%s: the largest intermediate of a whole UNet has the scores of %d heads", async (slice, together) => {
    const model = await load("attention_slice_max");
    const { loaded } = model as unknown as { loaded: { weights: Weights } };
    const g = new MeasuringBuilder(loaded.weights, plain);
    const dims = { sample: [2, 4, 32, 32], encoder_hidden_states: [2, 5, 12], time_proj: [2, 8] };
    const { build } = model as unknown as { build(g: GraphBuilder, dims: object, options: object): void };
    build.call(model, g, dims, { freeu: null, attentionSlice: slice });
    expect(g.largest).toBe(together * 1024 * 1024);
    await model.dispose();
  });

  it("the engine's kernel is divided where its scores are large, with the same result", async () => {
    const device = await getDevice("wasm", "fp32");
    const tokens = 1024;
    const feeds = Object.fromEntries(["q", "k", "v"].map((name) => [name, seeded(name, [1, tokens, channels])]));
    const mask = seeded("mask", [1, 1, 1, tokens]);
    const results = [];
    const nodes: number[] = [];
    for (const slice of [null, "auto", 3] as const) {
      const g = new GraphBuilder(adapterWeights([]), device.target);
      emit(g, slice, tokens, 1);
      const graph = g.build();
      const session = await createSession(graph, device, { name: "attention" });
      results.push((await session.run({ ...feeds, mask }))["out"]!.data);
      nodes.push(graph.nodeCount);
      await session.dispose();
    }
    // Each slice: three cuts and one kernel; then one joins them.
    expect(nodes.map((count) => count - nodes[0]!)).toEqual([0, 2 * 4, 3 * 4]);
    for (const sliced of results.slice(1)) expect(compare(sliced, results[0] as Float32Array).error).toBeLessThan(1e-6);
  });

  it("a small attention stays one kernel", async () => {
    const { target } = await getDevice("wasm", "fp32");
    const nodes = ([null, "max"] as const).map((slice) => {
      const g = new GraphBuilder(adapterWeights([]), target);
      emit(g, slice, 64);
      return g.build().nodeCount;
    });
    expect(nodes[1]).toBe(nodes[0]);
  });

  it.each([0, 3, 1.5, "half", undefined])("%s is refused or the default", async (slice) => {
    const model = new UNet2DConditionModel(caseNamed("attention_slice").config);
    if (slice === undefined) return expect(model.set_attention_slice()).toBeUndefined();
    expect(() => model.set_attention_slice(slice as AttentionSlice)).toThrow(
      /set_attention_slice: found .*, expected "auto", "max", null or a whole number from 1 to 2/,
    );
  });
});

describe("FreeU", () => {
  it("is switched on and off", async () => {
    const model = await load("freeu");
    const { sample, timestep, encoder_hidden_states } = caseInputs(caseNamed("freeu"));
    const call = async (): Promise<Float32Array> => {
      const output = await model(sample!, timestep!, encoder_hidden_states!);
      return output.sample.data;
    };
    const before = await call();
    model.enable_freeu(0.9, 0.2, 1.5, 1.6);
    expect(compare(await call(), before).error).toBeGreaterThan(0.01);
    model.disable_freeu();
    expect(await call()).toEqual(before);
    expect(() => model.enable_freeu(0.9, 0.2, Number.NaN, 1.6)).toThrow(ValueError);
    expect(() => (model.enable_freeu as (s1: number) => void)(0.9)).toThrow(/but `s2` is undefined/);
    await model.dispose();
  });
});

describe("IP-Adapters", () => {
  afterEach(() => vi.restoreAllMocks());

  const adapterOf = (key: string, i = 0): Weights => {
    const { setup } = caseInputs(caseNamed(key)) as { setup?: UNetSetup };
    return adapterWeights(setup!.ip_adapters![i]!, i);
  };
  const shapesOf = (key: string): readonly (readonly [string, readonly number[]])[] =>
    (caseInputs(caseNamed(key)) as { setup?: UNetSetup }).setup!.ip_adapters![0]!;

  it("a scale changes the output, and no graph is built", async () => {
    const model = await load("ip_adapter");
    const { sample, timestep, encoder_hidden_states, ...rest } = caseInputs(caseNamed("ip_adapter"));
    const { added_cond_kwargs } = rest as UNet2DConditionOptions;
    const call = async (): Promise<Float32Array> =>
      (await model(sample!, timestep!, encoder_hidden_states!, { added_cond_kwargs })).sample.data;
    const without = await model(sample!, timestep!, encoder_hidden_states!);
    model.set_ip_adapters([adapterOf("ip_adapter")]);
    expect(model.num_ip_adapters).toBe(1);
    const full = await call();
    const build = vi.spyOn(GraphBuilder.prototype, "build");
    model.set_ip_adapter_scale(0.5);
    expect(compare(await call(), full).error).toBeGreaterThan(1e-3);
    model.set_ip_adapter_scale([{ up: 1 }]);
    expect(compare(await call(), full).error).toBeGreaterThan(1e-3);
    model.set_ip_adapter_scale(0);
    expect(compare(await call(), without.sample.data).error).toBeLessThan(1e-5);
    model.set_ip_adapter_scale(1);
    expect(await call()).toEqual(full);
    expect(build).not.toHaveBeenCalled();
    model.set_ip_adapters([]);
    expect((await model(sample!, timestep!, encoder_hidden_states!)).sample.data).toEqual(without.sample.data);
    await model.dispose();
  });

  const sample = Tensor.zeros([2, 4, 8, 8]);
  const text = Tensor.zeros([2, 5, 12]);
  const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
  const embeds = (...list: Tensor[]): UNet2DConditionOptions => ({ added_cond_kwargs: { image_embeds: list } });
  const masked = (...list: (Tensor | null)[]): UNet2DConditionOptions => ({
    ...embeds(zeros(2, 1, 6)),
    cross_attention_kwargs: { ip_adapter_masks: list },
  });

  it.each<[string, UNet2DConditionOptions, RegExp]>([
    ["no embeddings", {}, /`added_cond_kwargs.image_embeds` is undefined, but a list of 1 tensors/],
    ["too many", embeds(zeros(2, 1, 6), zeros(2, 1, 6)), /is 2 tensors, but 1, one for each IP-Adapter/],
    ["their batch", embeds(zeros(1, 1, 6)), /image_embeds\[0\]` is \[1,1,6\], but \[2, images, 6\] is expected/],
    ["no tensor", embeds(null as never), /image_embeds\[0\]` is null, but \[2, images, 6\]/],
    ["no mask", masked(undefined as never), /masks\[0\]` is undefined, but \[1, 1, height, width\]/],
    ["their rank", embeds(zeros(2, 1, 3, 6)), /but \[2, images, 6\] is expected/],
    ["masks of other pictures", masked(zeros(1, 2, 8, 8)), /masks\[0\]` is \[1,2,8,8\], but \[1, 1, height, width\]/],
    ["too few masks", masked(), /is 0 masks, but 1, one \(or null\) for each IP-Adapter/],
  ])("a call is refused: %s", async (_, options, message) => {
    const model = await load("ip_adapter");
    model.set_ip_adapters([adapterOf("ip_adapter")]);
    const call = model(sample, 1, text, options);
    await expect(call).rejects.toThrow(message);
    await expect(call).rejects.toThrow(ValueError);
    await model.dispose();
  });

  it("embeddings and masks without an adapter, and scales of another number, are refused", async () => {
    const model = await load("ip_adapter");
    await expect(model(sample, 1, text, embeds(zeros(2, 1, 6)))).rejects.toThrow(/no IP-Adapter is set/);
    const masks = { cross_attention_kwargs: { ip_adapter_masks: [zeros(1, 1, 8, 8)] } };
    await expect(model(sample, 1, text, masks)).rejects.toThrow(/no IP-Adapter is set/);
    expect(() => model.set_ip_adapter_scale(0.5)).toThrow(/found 1 scales, but 0 IP-Adapters are set/);
    model.set_ip_adapters([adapterOf("ip_adapter")]);
    expect(() => model.set_ip_adapter_scale([0.5, 1])).toThrow(/found 2 scales, but 1 IP-Adapters/);
    model.set_ip_adapter_scale([[0.5, 1]]);
    await expect(model(sample, 1, text, embeds(zeros(2, 1, 6)))).rejects.toThrow(/there is no mask for it/);
    await model.dispose();
  });

  it.each<[string, unknown, RegExp]>([
    ["a part", { middle: 1 }, /found a scale for `middle`, expected down, mid and up/],
    ["a block without attention", { up: { block_0: 1 } }, /`up.block_0`, which has no transformers, expected block_1/],
    ["too many of a block", { up: { block_1: [1, 2, 3] } }, /found 3 scales for `up.block_1`, expected 2/],
    ["no number", { mid: "1" }, /for `mid`, expected a number/],
    ["not a number", Number.NaN, /expected a number, or a list of numbers/],
  ])("a scale is refused: %s", async (_, scale, message) => {
    const model = await load("ip_adapter");
    model.set_ip_adapters([adapterOf("ip_adapter")]);
    expect(() => model.set_ip_adapter_scale(scale as number)).toThrow(message);
    expect(() => model.set_ip_adapter_scale(scale as number)).toThrow(ValueError);
    await model.dispose();
  });

  it.each<[string, Record<string, unknown>]>([
    ["only_cross_attention", { only_cross_attention: true }],
    ["attention_type", { attention_type: "gated" }],
    ["down_block_types", { down_block_types: ["AttnDownBlock2D", "DownBlock2D"] }],
    ["attention_head_dim", { attention_head_dim: 3 }],
    ["encoder_hid_dim_type", { encoder_hid_dim: 12, encoder_hid_dim_type: "image_proj" }],
  ])("a UNet is refused by its %s", (field, config) => {
    const model = new UNet2DConditionModel({ ...caseNamed("ip_adapter").config, ...config });
    let error: unknown;
    try {
      model.set_ip_adapters([adapterOf("ip_adapter")]);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect((error as UnsupportedModelError).details).toMatchObject({ className: "UNet2DConditionModel", field });
  });

  it("weights that are no IP-Adapter's, or another model's, are refused by name", () => {
    const model = new UNet2DConditionModel(caseNamed("ip_adapter").config);
    const set = (shapes: readonly (readonly [string, readonly number[]])[]) => () =>
      model.set_ip_adapters([adapterWeights(shapes)]);
    const shapes = shapesOf("ip_adapter");
    expect(set([["conv_in.weight", [8, 4, 3, 3]]])).toThrow(/is no IP-Adapter: found none of image_proj/);
    expect(set(shapes.slice(0, -1))).toThrow(WeightsMismatchError);
    expect(set(shapes.slice(0, -1))).toThrow(/ip_adapter.7.to_v_ip.weight: found no such tensor, expected \[16, 12\]/);
    expect(set([...shapes, ["ip_adapter.9.to_k_ip.weight", [8, 12]]])).toThrow(/has no use for: ip_adapter.9.to_k_ip/);
    expect(set(shapesOf("ip_adapter_plus"))).toThrow(/ip_adapter/);
    expect(set([["image_proj.perceiver_resampler.proj_in.weight", [6, 12]]])).toThrow(/is an IP-Adapter FaceID Plus/);
    expect(set([...shapes, ["ip_adapter.0.to_q_lora.down.weight", [4, 8]]])).toThrow(UnsupportedModelError);
    expect(model.num_ip_adapters).toBe(0);
  });

  const times = (count: number, channels: number): number[] => new Array<number>(count).fill(channels);
  // The second attentions down, up and in the middle: the order of an adapter's file.
  it.each<[string, number[], number]>([
    ["sd15", [320, 640, 1280, 1280, 640, 320].flatMap((one, i) => times(i < 3 ? 2 : 3, one)).concat(1280), 768],
    ["sdxl", [...times(4, 640), ...times(20, 1280), ...times(30, 1280), ...times(6, 640), ...times(10, 1280)], 2048],
  ])("an adapter's file for %s fits its UNet", (name, channels, dim) => {
    const { config } = Object.entries(architectures).find(([key]) => key.startsWith(name) && key.endsWith("unet"))![1];
    const shapes = new Map<string, number[]>([
      ["image_proj.proj.weight", [4 * dim, 1024]],
      ["image_proj.proj.bias", [4 * dim]],
      ["image_proj.norm.weight", [dim]],
      ["image_proj.norm.bias", [dim]],
    ]);
    channels.forEach((one, i) => {
      for (const part of ["to_k_ip", "to_v_ip"]) shapes.set(`ip_adapter.${2 * i + 1}.${part}.weight`, [one, dim]);
    });
    const file: WeightSource = {
      file: "ip-adapter.safetensors",
      shape: (tensor) => shapes.get(tensor),
      names: () => shapes.keys(),
      dtype: () => "F16",
      read: () => new Uint8Array(0),
    };
    const model = new UNet2DConditionModel(config);
    model.set_ip_adapters([file, file]);
    expect(model.num_ip_adapters).toBe(2);
  });

  it("a mask of the queries' size is itself", () => {
    const mask = seeded("mask", [1, 12]).data;
    expect(downsampleMask(mask, 3, 4, 12)).toEqual(mask);
  });
});

describe("a call's attention options are refused", () => {
  const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);
  const sample = zeros(2, 4, 8, 8);
  const text = zeros(2, 5, 12);
  const gligen = { boxes: zeros(2, 3, 4), masks: zeros(2, 3), positive_embeddings: zeros(2, 3, 12) };
  it.each<[string, string, UNet2DConditionOptions, RegExp]>([
    ["a mask's rank", "freeu", { encoder_attention_mask: zeros(2, 1, 5) }, /`encoder_attention_mask` is \[2,1,5\]/],
    ["a mask's batch", "freeu", { attention_mask: zeros(1, 64) }, /`attention_mask` is \[1,64\], but \[2, tokens\]/],
    [
      "a mask's length",
      "freeu",
      { encoder_attention_mask: zeros(2, 4) },
      /`encoder_attention_mask` has 4 tokens, but down_blocks.0.attentions.0.transformer_blocks.0.attn2 attends to 5/,
    ],
    [
      "a mask where attentions differ in size",
      "freeu",
      { attention_mask: zeros(2, 64) },
      /`attention_mask` has 64 tokens, but mid_block.attentions.0.transformer_blocks.0.attn1 attends to 16/,
    ],
    [
      "a LoRA's scale",
      "freeu",
      { cross_attention_kwargs: { scale: Number.NaN } },
      /`cross_attention_kwargs.scale` is NaN/,
    ],
    ["an unknown one", "freeu", { cross_attention_kwargs: { gligan: 1 } as never }, /unknown option `gligan`. Did you/],
    ["grounding without layers", "freeu", { cross_attention_kwargs: { gligen } }, /`attention_type` "default"/],
    [
      "no boxes",
      "gated",
      { cross_attention_kwargs: { gligen: { ...gligen, boxes: zeros(2, 4) } } },
      /gligen.boxes` is \[2,4\], but \[2, objects, 4\]/,
    ],
    [
      "phrases of another kind of model",
      "gated",
      { cross_attention_kwargs: { gligen: { ...gligen, image_masks: zeros(2, 3) } } },
      /unknown option `image_masks`/,
    ],
    [
      "phrases' dims",
      "gated",
      { cross_attention_kwargs: { gligen: { ...gligen, positive_embeddings: zeros(2, 3, 11) } } },
      /gligen.positive_embeddings` is \[2,3,11\], but \[2, objects, 12\]/,
    ],
  ])("%s", async (_, key, options, message) => {
    const model = await load(key);
    await expect(model(sample, 1, text, options)).rejects.toThrow(message);
    await model.dispose();
  });
});
