import { ValueError } from "@diffusers-web/core";
import { float, type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { activation, isSilu } from "./activations.ts";
import { channelDims, type FeatureMap, type Tokens } from "./layout.ts";
import { linear } from "./linear.ts";

/** Options of a group normalisation. */
export interface GroupNormOptions {
  readonly groups: number;
  readonly eps: number;
  /** An activation to apply to the result, by its config name. */
  readonly activation?: string;
  /** Added to every pixel before normalising: `[batch, channels]`. */
  readonly shift?: Value;
  /** Whether each channel is scaled and shifted by weights at the end. Default true. */
  readonly affine?: boolean;
}

/** Normalises each group of channels, then scales and shifts each channel; optionally adds before and activates after. */
export function groupNorm(g: GraphBuilder, x: FeatureMap, name: string, options: GroupNormOptions): FeatureMap {
  const act = options.activation;
  if (x.channels % options.groups !== 0) {
    throw new ValueError(`${name}: ${x.channels} channels do not divide into \`norm_num_groups\` ${options.groups}.`, {
      field: "norm_num_groups",
      found: `${options.groups} groups`,
      expected: `a divisor of ${x.channels}`,
    });
  }
  if (!(g.target.layout === "nhwc" && g.target.fused.groupNorm)) {
    const value = plainGroupNorm(g, x, name, options);
    return { ...x, value: act === undefined ? value : activation(g, value, act) };
  }
  const affine = options.affine ?? true;
  const gamma = affine ? g.weight(`${name}.weight`, [x.channels]) : filled(g, 1, x.channels);
  const beta = affine ? g.weight(`${name}.bias`, [x.channels]) : filled(g, 0, x.channels);
  const silu = act !== undefined && isSilu(act);
  const attributes = {
    groups: options.groups,
    epsilon: float(options.eps),
    activation: silu ? 1 : 0,
    channels_last: 1,
  };
  const value =
    options.shift === undefined
      ? g.op("GroupNorm", [x.value, gamma, beta], x.value.dims, attributes, microsoft)
      : g.op("SkipGroupNorm", [x.value, gamma, beta, options.shift], x.value.dims, attributes, microsoft);
  return { ...x, value: act === undefined || silu ? value : activation(g, value, act) };
}

/** From ONNX's own operators: each group is one channel of an instance normalisation. */
function plainGroupNorm(g: GraphBuilder, x: FeatureMap, name: string, options: GroupNormOptions): Value {
  const { batch, channels, height, width } = x;
  const { groups } = options;
  const shifted =
    options.shift === undefined
      ? x.value
      : g.op("Add", [x.value, g.reshape(options.shift, channelDims(g, batch, channels))], x.value.dims);
  const size = channels / groups;
  const length = size * height * width;
  const isLast = g.target.layout === "nhwc";
  const perChannel = isLast ? [channels] : [channels, 1, 1];

  let grouped = shifted;
  if (isLast) {
    const split = g.reshape(grouped, [batch, height * width, groups, size]);
    grouped = g.op("Transpose", [split], [batch, groups, height * width, size], { perm: [0, 2, 1, 3] });
  }
  const flat = g.reshape(grouped, [batch, groups, length]);
  const operands = [flat, filled(g, 1, groups), filled(g, 0, groups)];
  let normed = g.op("InstanceNormalization", operands, flat.dims, { epsilon: float(options.eps) });
  if (isLast) {
    const split = g.reshape(normed, [batch, groups, height * width, size]);
    normed = g.op("Transpose", [split], [batch, height * width, groups, size], { perm: [0, 2, 1, 3] });
  }
  const map = g.reshape(normed, x.value.dims);
  if (options.affine === false) return map;
  const weight = (part: string): Value => g.weight(`${name}.${part}`, [channels], g.target.dtype, perChannel);
  const scaled = g.op("Mul", [map, weight("weight")], x.value.dims);
  return g.op("Add", [scaled, weight("bias")], x.value.dims);
}

function filled(g: GraphBuilder, value: number, length: number): Value {
  return g.constant(new Array<number>(length).fill(value), [length]);
}

/** The groups of a normalisation whose config names none. */
export function defaultGroups(channels: number): number {
  return Math.min(Math.floor(channels / 4), 32);
}

/**
 * Checks the groups that a block makes of its channels, whatever the config's `norm_num_groups`.
 *
 * @throws ValueError for channels that do not divide into them.
 */
export function checkOwnGroups(channels: number, groups: number, name: string): void {
  if (groups > 0 && channels % groups === 0) return;
  throw new ValueError(
    `${name}: ${channels} channels do not divide into the ${groups} groups that this kind of block makes of its ` +
      "channels. Change `block_out_channels`, to multiples of 32 at best.",
    { field: "block_out_channels", found: `${channels} channels`, expected: `a multiple of ${groups}` },
  );
}

/** `x * (1 + scale) + shift`, with scale and shift the halves of `[batch, 2 * channels]`. */
export function scaleShift(g: GraphBuilder, x: FeatureMap, projected: Value): FeatureMap {
  const halves = [
    [x.batch, x.channels],
    [x.batch, x.channels],
  ];
  const [scale, shift] = g.ops("Split", [projected], halves, { axis: 1, num_outputs: 2 }) as [Value, Value];
  const dims = channelDims(g, x.batch, x.channels);
  const factor = g.op("Add", [g.reshape(scale, dims), g.constant([1], [])], dims);
  const scaled = g.op("Mul", [x.value, factor], x.value.dims);
  return { ...x, value: g.op("Add", [scaled, g.reshape(shift, dims)], x.value.dims) };
}

/**
 * A group normalisation whose scale and shift are a linear function of the time embedding `[batch, dim]`.
 *
 * @see Diffusers `AdaGroupNorm`
 */
export function adaGroupNorm(
  g: GraphBuilder,
  x: FeatureMap,
  temb: Value,
  name: string,
  { groups, eps }: Pick<GroupNormOptions, "groups" | "eps">,
): FeatureMap {
  const projected = linear(g, temb, `${name}.linear`, 2 * x.channels);
  return scaleShift(g, groupNorm(g, x, name, { groups, eps, affine: false }), projected);
}

/** Normalises each token over its channels. */
export function layerNorm(g: GraphBuilder, x: Tokens, name: string, eps = 1e-5): Tokens {
  const inputs = [x.value, g.weight(`${name}.weight`, [x.channels]), g.weight(`${name}.bias`, [x.channels])];
  return {
    ...x,
    value: g.op("LayerNormalization", inputs, x.value.dims, { axis: -1, epsilon: float(eps) }),
  };
}
