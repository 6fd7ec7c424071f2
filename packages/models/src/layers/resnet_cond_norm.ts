import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { conv2d } from "./conv.ts";
import { add, type FeatureMap } from "./layout.ts";
import { adaGroupNorm } from "./norm.ts";

/** Options of {@link resnetBlockCondNorm2D}. */
export interface ResnetCondNormOptions {
  readonly groups: number;
  readonly groupsOut: number;
  readonly eps: number;
  /** The activation's config name. */
  readonly act: string;
  /** Channels between the two convolutions. */
  readonly inner: number;
}

/**
 * Two convolutions with a residual connection, after normalisations that the time embedding scales and shifts.
 *
 * @param temb the time embedding `[batch, dim]`
 * @param out the number of output channels
 * @see Diffusers `ResnetBlockCondNorm2D` with `time_embedding_norm="ada_group"` and `conv_shortcut_bias=False`
 */
export function resnetBlockCondNorm2D(
  g: GraphBuilder,
  x: FeatureMap,
  temb: Value,
  name: string,
  out: number,
  { groups, groupsOut, eps, act, inner }: ResnetCondNormOptions,
): FeatureMap {
  let hidden = adaGroupNorm(g, x, temb, `${name}.norm1`, { groups, eps });
  hidden = { ...hidden, value: activation(g, hidden.value, act) };
  hidden = conv2d(g, hidden, `${name}.conv1`, inner);
  hidden = adaGroupNorm(g, hidden, temb, `${name}.norm2`, { groups: groupsOut, eps });
  hidden = { ...hidden, value: activation(g, hidden.value, act) };
  hidden = conv2d(g, hidden, `${name}.conv2`, out);
  const input = x.channels === out ? x : conv2d(g, x, `${name}.conv_shortcut`, out, { kernel: 1, bias: false });
  return add(g, input, hidden);
}
