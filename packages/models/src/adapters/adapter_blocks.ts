import type { GraphBuilder } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { averagePool2d, conv2d, pad2d } from "../layers/conv.ts";
import { add, type FeatureMap } from "../layers/layout.ts";

/** What one block of an adapter is like. */
export interface AdapterBlockOptions {
  readonly out: number;
  readonly layers: number;
  /** Whether the size is halved first. */
  readonly down: boolean;
}

/** @see Diffusers `AdapterBlock` */
export function adapterBlock(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  { out, layers, down }: AdapterBlockOptions,
): FeatureMap {
  let hidden = down ? halved(g, x) : x;
  if (hidden.channels !== out) hidden = conv2d(g, hidden, `${name}.in_conv`, out, { kernel: 1 });
  for (let i = 0; i < layers; i++) hidden = resnetBlock(g, hidden, `${name}.resnets.${i}`, 1);
  return hidden;
}

/** Works on a quarter of its channels. @see Diffusers `LightAdapterBlock` */
export function lightAdapterBlock(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  { out, layers, down }: AdapterBlockOptions,
): FeatureMap {
  let hidden = down ? halved(g, x) : x;
  hidden = conv2d(g, hidden, `${name}.in_conv`, Math.floor(out / 4), { kernel: 1 });
  for (let i = 0; i < layers; i++) hidden = resnetBlock(g, hidden, `${name}.resnets.${i}`, 3);
  return conv2d(g, hidden, `${name}.out_conv`, out, { kernel: 1 });
}

/** @param kernel of the second convolution @see Diffusers `AdapterResnetBlock`, `LightAdapterResnetBlock` */
function resnetBlock(g: GraphBuilder, x: FeatureMap, name: string, kernel: number): FeatureMap {
  const first = conv2d(g, x, `${name}.block1`, x.channels);
  const active = { ...first, value: activation(g, first.value, "relu") };
  return add(g, conv2d(g, active, `${name}.block2`, x.channels, { kernel }), x);
}

/** The mean of every 2x2 square, of which an odd last row or column has half: the mean does not change if that is there twice. */
function halved(g: GraphBuilder, x: FeatureMap): FeatureMap {
  return averagePool2d(g, pad2d(g, x, [0, 0, x.height % 2, x.width % 2], "edge"));
}
