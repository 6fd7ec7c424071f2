import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { averagePool2d, conv2d } from "./conv.ts";
import { add, channelDims, divide, type FeatureMap } from "./layout.ts";
import { linear } from "./linear.ts";
import { groupNorm } from "./norm.ts";
import { upsampleNearest } from "./upsampling.ts";

/** What the residual blocks of one model have in common. */
export interface ResnetOptions {
  readonly groups: number;
  readonly eps: number;
  /** The activation's config name. */
  readonly act: string;
  /** How the time embedding comes in: added before the second normalisation, or scaling and shifting after it. */
  readonly timeScaleShift: "default" | "scale_shift";
  /** What the result is divided by. Default 1. */
  readonly outputScaleFactor?: number;
  /** Whether the time embedding goes in without the activation. Default false. */
  readonly skipTimeAct?: boolean;
}

/**
 * Two convolutions with a residual connection.
 *
 * @param temb the time embedding `[batch, dim]`; null where there is none
 * @param out the number of output channels
 * @param resample halves or doubles the size before the first convolution
 * @see Diffusers `ResnetBlock2D`
 */
export function resnetBlock2D(
  g: GraphBuilder,
  x: FeatureMap,
  temb: Value | null,
  name: string,
  out: number,
  options: ResnetOptions,
  resample?: "down" | "up",
): FeatureMap {
  const { groups, eps, act, timeScaleShift } = options;
  let input = x;
  let hidden = groupNorm(g, x, `${name}.norm1`, { groups, eps, activation: act });
  if (resample !== undefined) {
    const resized = resample === "down" ? averagePool2d : upsampleNearest;
    input = resized(g, input);
    hidden = resized(g, hidden);
  }
  hidden = conv2d(g, hidden, `${name}.conv1`, out);

  if (temb === null) {
    hidden = groupNorm(g, hidden, `${name}.norm2`, { groups, eps, activation: act });
  } else {
    const embedding = options.skipTimeAct ? temb : activation(g, temb, act);
    if (timeScaleShift === "default") {
      const shift = linear(g, embedding, `${name}.time_emb_proj`, out);
      hidden = groupNorm(g, hidden, `${name}.norm2`, { groups, eps, activation: act, shift });
    } else {
      const projected = linear(g, embedding, `${name}.time_emb_proj`, 2 * out);
      hidden = scaleShift(g, groupNorm(g, hidden, `${name}.norm2`, { groups, eps }), projected);
      hidden = { ...hidden, value: activation(g, hidden.value, act) };
    }
  }
  hidden = conv2d(g, hidden, `${name}.conv2`, out);

  if (x.channels !== out) input = conv2d(g, input, `${name}.conv_shortcut`, out, { kernel: 1 });
  return divide(g, add(g, hidden, input), options.outputScaleFactor ?? 1);
}

/** `x * (1 + scale) + shift`, with scale and shift the halves of `[batch, 2 * channels]`. */
function scaleShift(g: GraphBuilder, x: FeatureMap, projected: Value): FeatureMap {
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
