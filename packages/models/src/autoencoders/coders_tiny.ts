import type { GraphBuilder } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { conv2d } from "../layers/conv.ts";
import { add, affine, divide, type FeatureMap } from "../layers/layout.ts";
import { upsampleNearest } from "../layers/upsampling.ts";

/** Options of {@link encoderTiny}: the arguments of Diffusers' `EncoderTiny`. */
export interface EncoderTinyOptions {
  readonly out_channels: number;
  /** Blocks per stage; each stage but the first halves the size. */
  readonly num_blocks: readonly number[];
  readonly block_out_channels: readonly number[];
  readonly act_fn: string;
}

/** Options of {@link decoderTiny}: the arguments of Diffusers' `DecoderTiny`. */
export interface DecoderTinyOptions extends EncoderTinyOptions {
  readonly upsampling_scaling_factor: number;
}

/** From pictures in -1..1 to latents. @see Diffusers `EncoderTiny` */
export function encoderTiny(
  g: GraphBuilder,
  sample: FeatureMap,
  name: string,
  { num_blocks, block_out_channels, out_channels, act_fn }: EncoderTinyOptions,
): FeatureMap {
  // The layers stand in one list, and their weights are named by their place in it.
  let at = 0;
  // From -1..1 to 0..1.
  let x = affine(g, sample, 0.5, 0.5);
  num_blocks.forEach((blocks, i) => {
    const halves = i === 0 ? {} : { stride: 2, bias: false };
    x = conv2d(g, x, `${name}.layers.${at++}`, block_out_channels[i]!, halves);
    for (let k = 0; k < blocks; k++) x = autoencoderTinyBlock(g, x, `${name}.layers.${at++}`, act_fn);
  });
  return conv2d(g, x, `${name}.layers.${at}`, out_channels);
}

/** From latents to pictures in -1..1. @see Diffusers `DecoderTiny` */
export function decoderTiny(
  g: GraphBuilder,
  sample: FeatureMap,
  name: string,
  { num_blocks, block_out_channels, out_channels, act_fn, upsampling_scaling_factor: factor }: DecoderTinyOptions,
): FeatureMap {
  const clamped = divide(g, sample, 3);
  const squeezed = { ...clamped, value: g.op("Tanh", [clamped.value], clamped.value.dims) };
  let x = conv2d(g, scaled(g, squeezed, 3), `${name}.layers.0`, block_out_channels[0]!);
  x = { ...x, value: activation(g, x.value, act_fn) };
  // The activation has a place in the list as well, and so has each upsampling.
  let at = 2;
  num_blocks.forEach((blocks, i) => {
    const isFinal = i === num_blocks.length - 1;
    for (let k = 0; k < blocks; k++) x = autoencoderTinyBlock(g, x, `${name}.layers.${at++}`, act_fn);
    if (!isFinal) {
      x = upsampleNearest(g, x, { height: x.height * factor, width: x.width * factor });
      at++;
    }
    x = conv2d(g, x, `${name}.layers.${at++}`, isFinal ? out_channels : block_out_channels[i]!, { bias: isFinal });
  });
  // From 0..1 to -1..1.
  return affine(g, x, 2, -1);
}

/** Three convolutions with a residual connection, and ReLU. @see Diffusers `AutoencoderTinyBlock` */
function autoencoderTinyBlock(g: GraphBuilder, x: FeatureMap, name: string, act: string): FeatureMap {
  let hidden = conv2d(g, x, `${name}.conv.0`, x.channels);
  hidden = { ...hidden, value: activation(g, hidden.value, act) };
  hidden = conv2d(g, hidden, `${name}.conv.2`, x.channels);
  hidden = { ...hidden, value: activation(g, hidden.value, act) };
  hidden = conv2d(g, hidden, `${name}.conv.4`, x.channels);
  const sum = add(g, hidden, x);
  return { ...sum, value: activation(g, sum.value, "relu") };
}

function scaled(g: GraphBuilder, x: FeatureMap, factor: number): FeatureMap {
  return { ...x, value: g.op("Mul", [x.value, g.constant([factor], [])], x.value.dims) };
}
