import { ValueError } from "@diffusers-web/core";
import { float, type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";
import { activation, isSilu } from "./activations.ts";
import { channelDims, type FeatureMap, type Tokens } from "./layout.ts";

/** Options of a group normalisation. */
export interface GroupNormOptions {
  readonly groups: number;
  readonly eps: number;
  /** An activation to apply to the result, by its config name. */
  readonly activation?: string;
  /** Added to every pixel before normalising: `[batch, channels]`. */
  readonly shift?: Value;
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
  const gamma = g.weight(`${name}.weight`, [x.channels]);
  const beta = g.weight(`${name}.bias`, [x.channels]);
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
  const ones = g.constant(new Array<number>(groups).fill(1), [groups]);
  const zeros = g.constant(new Array<number>(groups).fill(0), [groups]);
  const flat = g.reshape(grouped, [batch, groups, length]);
  let normed = g.op("InstanceNormalization", [flat, ones, zeros], flat.dims, { epsilon: float(options.eps) });
  if (isLast) {
    const split = g.reshape(normed, [batch, groups, height * width, size]);
    normed = g.op("Transpose", [split], [batch, height * width, groups, size], { perm: [0, 2, 1, 3] });
  }
  const map = g.reshape(normed, x.value.dims);
  const weight = (part: string): Value => g.weight(`${name}.${part}`, [channels], g.target.dtype, perChannel);
  const scaled = g.op("Mul", [map, weight("weight")], x.value.dims);
  return g.op("Add", [scaled, weight("bias")], x.value.dims);
}

/** Normalises each token over its channels. */
export function layerNorm(g: GraphBuilder, x: Tokens, name: string, eps = 1e-5): Tokens {
  const inputs = [x.value, g.weight(`${name}.weight`, [x.channels]), g.weight(`${name}.bias`, [x.channels])];
  return {
    ...x,
    value: g.op("LayerNormalization", inputs, x.value.dims, { axis: -1, epsilon: float(eps) }),
  };
}
