import { Generator, type Tensor } from "@diffusers-web/core";
import { GraphBuilder, type Value } from "../../../packages/models/src/graph/builder.ts";
import type { Target, WeightSource } from "../../../packages/models/src/graph/types.ts";
import { addedKVAttention } from "../../../packages/models/src/layers/added_kv_attention.ts";
import { attentionBlock2D, scaledDotProductAttention } from "../../../packages/models/src/layers/attention.ts";
import { blurDownsample2D, blurUpsample2D } from "../../../packages/models/src/layers/blur.ts";
import { conv2d, downsample2D } from "../../../packages/models/src/layers/conv.ts";
import { mapInput, mapOutput, tokensInput } from "../../../packages/models/src/layers/layout.ts";
import { groupNorm } from "../../../packages/models/src/layers/norm.ts";
import { resnetBlock2D } from "../../../packages/models/src/layers/resnet.ts";
import { resnetBlockCondNorm2D } from "../../../packages/models/src/layers/resnet_cond_norm.ts";
import { transformer2D } from "../../../packages/models/src/layers/transformer_2d.ts";
import { upsample2D } from "../../../packages/models/src/layers/upsampling.ts";
import { convertWeights } from "../../../packages/models/src/weight_conversion.ts";

/** A builder for layers without a checkpoint: every weight is there, with random values of its name's own. */
export class InventingBuilder extends GraphBuilder {
  private readonly invented: Map<string, { dims: readonly number[]; data: Float32Array }>;
  private readonly given: (name: string) => Float32Array | undefined;

  constructor(target: Target, given: (name: string) => Float32Array | undefined = () => undefined) {
    const invented = new Map<string, { dims: readonly number[]; data: Float32Array }>();
    const weights: WeightSource = {
      file: "invented",
      names: () => invented.keys(),
      shape: (name) => invented.get(name)?.dims,
      dtype: () => "F32",
      read: (name, as) => convertWeights(new Uint8Array(invented.get(name)!.data.buffer), "F32", as)!,
    };
    super(weights, target);
    this.invented = invented;
    this.given = given;
  }

  override weight(
    name: string,
    shape: readonly number[],
    type?: "float32" | "float16",
    dims?: readonly number[],
  ): Value {
    const seed = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1e6, 7);
    // As initialisations do: the larger the sum that a weight is part of, the smaller it is.
    const size = shape.slice(1).reduce((product, dim) => product * dim, 1);
    const data = this.given(name) ?? random(seed, shape).div(Math.sqrt(size)).data;
    if (!this.invented.has(name)) this.invented.set(name, { dims: shape, data });
    return super.weight(name, shape, type, dims);
  }
}

function random(seed: number, dims: readonly number[]): Tensor {
  return new Generator().manual_seed(seed).randn(dims);
}

type LayerCase = (g: GraphBuilder) => Record<string, Tensor>;

const map = random(1, [2, 16, 9, 8]);
const temb = random(2, [2, 32]);
const text = random(3, [2, 7, 24]);
const long = random(4, [1, 1024, 32]);
const mask = random(5, [1, 1, 1, 1024]);
const nine = random(6, [2, 9, 9, 8]);
const resnet = { groups: 4, eps: 1e-5, act: "silu", timeScaleShift: "default" } as const;

/** Each emits a layer whose output is `out`, and gives its feeds. Odd sizes and a batch of two, so that no axis hides. */
export const layerCases: Readonly<Record<string, LayerCase>> = {
  "convolution, asymmetric stride 2": (g) => {
    mapOutput(g, "out", downsample2D(g, mapInput(g, "x", map.dims), "down", 0));
    return { x: map };
  },
  "convolution of nine channels, as an inpainting UNet's first": (g) => {
    mapOutput(g, "out", conv2d(g, mapInput(g, "x", nine.dims), "conv", 8));
    return { x: nine };
  },
  "convolution 1x1 after group norm": (g) => {
    const x = groupNorm(g, mapInput(g, "x", map.dims), "norm", { groups: 4, eps: 1e-6 });
    mapOutput(g, "out", conv2d(g, x, "conv", 24, { kernel: 1 }));
    return { x: map };
  },
  "upsampling to an odd size": (g) => {
    mapOutput(g, "out", upsample2D(g, mapInput(g, "x", map.dims), "up", { height: 17, width: 16 }));
    return { x: map };
  },
  "resnet block with time embedding and shortcut": (g) => {
    const x = mapInput(g, "x", map.dims);
    mapOutput(g, "out", resnetBlock2D(g, x, g.input("temb", temb.dims), "resnet", 24, resnet));
    return { x: map, temb };
  },
  "attention over pixels": (g) => {
    const x = mapInput(g, "x", map.dims);
    mapOutput(g, "out", attentionBlock2D(g, x, "attention", { headDim: 8, groups: 4, eps: 1e-5 }));
    return { x: map };
  },
  "transformer over pixels and text": (g) => {
    const x = mapInput(g, "x", map.dims);
    const context = tokensInput(g, "text", text.dims);
    const options = { heads: 2, headDim: 8, layers: 1, groups: 4, onlyCrossAttention: false, upcastAttention: false };
    mapOutput(g, "out", transformer2D(g, x, "transformer", { ...options, context }));
    return { x: map, text };
  },
  "blur to half the size and back": (g) => {
    mapOutput(g, "out", blurUpsample2D(g, blurDownsample2D(g, mapInput(g, "x", map.dims), "zero"), "zero"));
    return { x: map };
  },
  "blur to half the size and back, with mirrored edges": (g) => {
    mapOutput(g, "out", blurUpsample2D(g, blurDownsample2D(g, mapInput(g, "x", map.dims), "reflect"), "reflect"));
    return { x: map };
  },
  "resnet block modulated by the time embedding": (g) => {
    const x = mapInput(g, "x", map.dims);
    const options = { groups: 4, groupsOut: 8, eps: 1e-5, act: "gelu", inner: 24 };
    mapOutput(g, "out", resnetBlockCondNorm2D(g, x, g.input("temb", temb.dims), "resnet", 12, options));
    return { x: map, temb };
  },
  "attention over both text and pixels": (g) => {
    const x = mapInput(g, "x", map.dims);
    const options = { headDim: 8, groups: 4, onlyCrossAttention: false, crossAttentionNorm: "layer_norm" } as const;
    const context = tokensInput(g, "text", text.dims);
    mapOutput(g, "out", addedKVAttention(g, x, "attention", { ...options, context }));
    return { x: map, text };
  },
  "attention with a mask, in slices": (g) => {
    // As many scores as make the engine's kernel be divided.
    g.attentionSlice = 3;
    const x = tokensInput(g, "x", long.dims);
    const mixed = scaledDotProductAttention(g, x, x, x, { heads: 8, mask: g.input("mask", mask.dims) });
    g.output("out", mixed.value);
    return { x: long, mask };
  },
};
