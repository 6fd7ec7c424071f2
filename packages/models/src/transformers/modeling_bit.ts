import type { GraphBuilder } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { conv2d, pad2d } from "../layers/conv.ts";
import { add, type FeatureMap } from "../layers/layout.ts";
import { groupNorm } from "../layers/norm.ts";
import { maxPool2d, type Pads } from "../layers/pooling.ts";
import type { Size } from "../layers/upsampling.ts";
import { type BitConfig, bitChannels, makeDivisible } from "./bit_config.ts";

interface ConvOptions {
  readonly kernel?: number;
  readonly stride?: number;
  readonly dilation?: number;
}

/**
 * The feature maps of a BiT backbone, for each of `config.outputs` in their order.
 *
 * @see transformers `BitBackbone`
 */
export function bitBackbone(g: GraphBuilder, pixels: FeatureMap, name: string, config: BitConfig): FeatureMap[] {
  const { depths, outputs } = config;
  const channels = bitChannels(config);
  let hidden = bitEmbeddings(g, pixels, `${name}.embedder`, config);
  const maps = [hidden];
  let current = 4;
  let dilation = 1;
  // What lies behind the last feature map that is asked for is not computed.
  for (let stage = 0; stage < outputs.at(-1)!; stage++) {
    let stride = stage === 0 ? 1 : 2;
    if (current >= config.output_stride) {
      dilation *= stride;
      stride = 1;
    }
    for (let i = 0; i < depths[stage]!; i++) {
      // As timm's: a stage's first layer still looks as far apart as the stage before.
      const first = dilation === 1 || dilation === 2 ? 1 : 2;
      hidden = bitLayer(g, hidden, `${name}.encoder.stages.${stage}.layers.${i}`, channels[stage + 1]!, config, {
        stride: i === 0 ? stride : 1,
        dilation: i === 0 ? first : dilation,
        isFirst: i === 0,
      });
    }
    current *= stride;
    maps.push(hidden);
  }
  return outputs.map((stage) => maps[stage]!);
}

/** @see transformers `BitEmbeddings` */
function bitEmbeddings(g: GraphBuilder, pixels: FeatureMap, name: string, config: BitConfig): FeatureMap {
  const { layer_type, hidden_act, global_padding, embedding_dynamic_padding } = config;
  let x = standardizedConv(g, pixels, `${name}.convolution`, config.embedding_size, config, { kernel: 7, stride: 2 });
  let pads: Pads = global_padding === "SAME" ? [0, 0, 0, 0] : [1, 1, 1, 1];
  const hasNorm = layer_type !== "preactivation";
  if (hasNorm) {
    x = norm(g, pad2d(g, x, pads, "constant"), `${name}.norm`, config);
    pads = [0, 0, 0, 0];
  }
  if (embedding_dynamic_padding) {
    const [top, left, bottom, right] = pads;
    const padded = { height: x.height + top + bottom, width: x.width + left + right };
    pads = samePadding(padded, 3, 2, 1).map((count, side) => count + pads[side]!) as unknown as Pads;
  }
  const isNonNegative = hasNorm && ["relu", "sigmoid"].includes(hidden_act);
  return maxPool2d(g, x, { kernel: 3, stride: 2, pads, isNonNegative });
}

interface LayerOptions {
  readonly stride: number;
  readonly dilation: number;
  readonly isFirst: boolean;
}

function bitLayer(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  out: number,
  config: BitConfig,
  options: LayerOptions,
): FeatureMap {
  const layer = config.layer_type === "bottleneck" ? bottleneckLayer : preActivationLayer;
  return layer(g, x, name, out, config, options);
}

/** @see transformers `BitBottleneckLayer` */
function bottleneckLayer(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  out: number,
  config: BitConfig,
  { stride, dilation, isFirst }: LayerOptions,
): FeatureMap {
  const mid = makeDivisible(out * 0.25);
  let shortcut = x;
  if (isFirst) {
    const projected = standardizedConv(g, x, `${name}.downsample.conv`, out, config, { stride });
    shortcut = norm(g, projected, `${name}.downsample.norm`, config, false);
  }
  let hidden = norm(g, standardizedConv(g, x, `${name}.conv1`, mid, config), `${name}.norm1`, config);
  hidden = standardizedConv(g, hidden, `${name}.conv2`, mid, config, { kernel: 3, stride, dilation });
  hidden = norm(g, hidden, `${name}.norm2`, config);
  hidden = norm(g, standardizedConv(g, hidden, `${name}.conv3`, out, config), `${name}.norm3`, config, false);
  const sum = add(g, hidden, shortcut);
  return { ...sum, value: activation(g, sum.value, config.hidden_act) };
}

/** Without dilation, as transformers has it. @see transformers `BitPreActivationBottleneckLayer` */
function preActivationLayer(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  out: number,
  config: BitConfig,
  { stride, isFirst }: LayerOptions,
): FeatureMap {
  const mid = makeDivisible(out * 0.25);
  const active = norm(g, x, `${name}.norm1`, config);
  const shortcut = isFirst ? standardizedConv(g, active, `${name}.downsample.conv`, out, config, { stride }) : x;
  let hidden = standardizedConv(g, active, `${name}.conv1`, mid, config);
  hidden = norm(g, hidden, `${name}.norm2`, config);
  hidden = standardizedConv(g, hidden, `${name}.conv2`, mid, config, { kernel: 3, stride });
  hidden = norm(g, hidden, `${name}.norm3`, config);
  return add(g, standardizedConv(g, hidden, `${name}.conv3`, out, config), shortcut);
}

/** @see transformers `BitGroupNormActivation` */
function norm(g: GraphBuilder, x: FeatureMap, name: string, config: BitConfig, isActive = true): FeatureMap {
  const options = { groups: config.num_groups, eps: 1e-5 };
  return groupNorm(g, x, name, isActive ? { ...options, activation: config.hidden_act } : options);
}

/**
 * A convolution without bias whose weights have mean 0 and variance 1 for each output: made so when they are read.
 *
 * @see transformers `WeightStandardizedConv2d`
 */
function standardizedConv(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  out: number,
  config: BitConfig,
  { kernel = 1, stride = 1, dilation = 1 }: ConvOptions = {},
): FeatureMap {
  const shape = [out, x.channels, kernel, kernel];
  const weight = g.derived(`${name}.weight`, shape, "standardized", shape, (values) => standardize(values, out));
  const padding =
    config.global_padding === "SAME"
      ? samePadding(x, kernel, stride, dilation)
      : Math.floor((stride - 1 + dilation * (kernel - 1)) / 2);
  return conv2d(g, x, name, out, { kernel, stride, dilation, padding, derived: { weight, bias: null } });
}

/** As TensorFlow pads: as many outputs as strides fit, the larger half at the end. @see transformers `DynamicPad2d` */
function samePadding({ height, width }: Size, kernel: number, stride: number, dilation: number): Pads {
  const total = (size: number): number =>
    Math.max((Math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0);
  const [vertical, horizontal] = [total(height), total(width)];
  const [top, left] = [Math.floor(vertical / 2), Math.floor(horizontal / 2)];
  return [top, left, vertical - top, horizontal - left];
}

function standardize(values: Float32Array, rows: number): Float32Array {
  const length = values.length / rows;
  const result = new Float32Array(values.length);
  for (let begin = 0; begin < values.length; begin += length) {
    const row = values.subarray(begin, begin + length);
    let sum = 0;
    for (const value of row) sum += value;
    const mean = sum / length;
    let squares = 0;
    for (const value of row) squares += (value - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / length + 1e-8);
    for (let i = 0; i < length; i++) result[begin + i] = (row[i]! - mean) * scale;
  }
  return result;
}
