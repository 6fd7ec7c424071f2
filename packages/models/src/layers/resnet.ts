import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { blurDownsample2D, blurUpsample2D } from "./blur.ts";
import { averagePool2d, conv2d } from "./conv.ts";
import { add, divide, type FeatureMap } from "./layout.ts";
import { linear } from "./linear.ts";
import { groupNorm, scaleShift } from "./norm.ts";
import { spatialNorm } from "./spatial_norm.ts";
import { upsampleNearest } from "./upsampling.ts";

/** What the residual blocks of one model have in common. */
export interface ResnetOptions {
  readonly groups: number;
  /** Groups of the second normalisation, where it has others. */
  readonly groupsOut?: number;
  readonly eps: number;
  /** The activation's config name. */
  readonly act: string;
  /** How the time embedding comes in: added before the second normalisation, or scaling and shifting after it. */
  readonly timeScaleShift: "default" | "scale_shift";
  /** What the result is divided by. Default 1. */
  readonly outputScaleFactor?: number;
  /** Whether the time embedding goes in without the activation. Default false. */
  readonly skipTimeAct?: boolean;
  /** The quantised latents, where both normalisations are {@link spatialNorm}s of them: a decoder without time. */
  readonly spatial?: FeatureMap;
  /** Whether the residual goes through a 1x1 convolution. Default: where the channels change. */
  readonly convShortcut?: boolean;
}

/** How a residual block resamples before its first convolution: by averages and nearest neighbours, or with a blur. */
export type Resampling = "down" | "up" | "fir_down" | "fir_up";

const resamplings: Record<Resampling, (g: GraphBuilder, x: FeatureMap) => FeatureMap> = {
  down: averagePool2d,
  up: (g, x) => upsampleNearest(g, x),
  fir_down: (g, x) => blurDownsample2D(g, x, "zero"),
  fir_up: (g, x) => blurUpsample2D(g, x, "zero"),
};

/**
 * Two convolutions with a residual connection.
 *
 * @param temb the time embedding `[batch, dim]`; null where there is none
 * @param out the number of output channels
 * @param resample halves or doubles the size before the first convolution
 * @see Diffusers `ResnetBlock2D`, and `ResnetBlockCondNorm2D` with `time_embedding_norm="spatial"`
 */
export function resnetBlock2D(
  g: GraphBuilder,
  x: FeatureMap,
  temb: Value | null,
  name: string,
  out: number,
  options: ResnetOptions,
  resample?: Resampling,
): FeatureMap {
  const { groups, groupsOut = groups, eps, act, timeScaleShift, spatial } = options;
  let input = x;
  let hidden =
    spatial === undefined
      ? groupNorm(g, x, `${name}.norm1`, { groups, eps, activation: act })
      : spatialNorm(g, x, spatial, `${name}.norm1`, act);
  if (resample !== undefined) {
    input = resamplings[resample](g, input);
    hidden = resamplings[resample](g, hidden);
  }
  hidden = conv2d(g, hidden, `${name}.conv1`, out);

  if (spatial !== undefined) {
    hidden = spatialNorm(g, hidden, spatial, `${name}.norm2`, act);
  } else if (temb === null) {
    hidden = groupNorm(g, hidden, `${name}.norm2`, { groups: groupsOut, eps, activation: act });
  } else {
    const embedding = options.skipTimeAct ? temb : activation(g, temb, act);
    if (timeScaleShift === "default") {
      const shift = linear(g, embedding, `${name}.time_emb_proj`, out);
      hidden = groupNorm(g, hidden, `${name}.norm2`, { groups: groupsOut, eps, activation: act, shift });
    } else {
      const projected = linear(g, embedding, `${name}.time_emb_proj`, 2 * out);
      hidden = scaleShift(g, groupNorm(g, hidden, `${name}.norm2`, { groups: groupsOut, eps }), projected);
      hidden = { ...hidden, value: activation(g, hidden.value, act) };
    }
  }
  hidden = conv2d(g, hidden, `${name}.conv2`, out);

  if (options.convShortcut ?? x.channels !== out) {
    input = conv2d(g, input, `${name}.conv_shortcut`, out, { kernel: 1 });
  }
  return divide(g, add(g, hidden, input), options.outputScaleFactor ?? 1);
}
