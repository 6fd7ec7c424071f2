import { Tensor } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "./activations.ts";
import { linear } from "./linear.ts";

const { fround } = Math;

/**
 * Sinusoidal embedding of timesteps, in float32 as torch computes it: a GPU's sine and cosine are too coarse.
 *
 * @returns `[timesteps, dim]`: sines then cosines (or the reverse), a zero last when `dim` is odd
 * @see Diffusers `get_timestep_embedding`
 */
export function timestepSinusoid(
  timesteps: ArrayLike<number>,
  dim: number,
  flipSinToCos: boolean,
  downscaleFreqShift: number,
): Tensor {
  const half = Math.floor(dim / 2);
  const logPeriod = fround(-Math.log(10000));
  const frequencies = Float32Array.from({ length: half }, (_, i) =>
    Math.exp(fround(fround(logPeriod * i) / fround(half - downscaleFreqShift))),
  );
  const data = new Float32Array(timesteps.length * dim);
  for (let n = 0; n < timesteps.length; n++) {
    const t = fround(timesteps[n]!);
    for (let i = 0; i < half; i++) {
      const angle = fround(t * frequencies[i]!);
      const [first, second] = flipSinToCos ? [Math.cos(angle), Math.sin(angle)] : [Math.sin(angle), Math.cos(angle)];
      data[n * dim + i] = first;
      data[n * dim + half + i] = second;
    }
  }
  return new Tensor("float32", data, [timesteps.length, dim]);
}

/** Options of {@link gaussianFourier}. */
export interface GaussianFourierOptions {
  /** Whether the logarithms of the levels are embedded. */
  readonly log: boolean;
  /** Whether the cosines stand before the sines. */
  readonly flipSinToCos: boolean;
  /** Whether the levels are float64, so that torch computes the angles in it. Default false. */
  readonly isDouble?: boolean;
}

/**
 * Embedding of noise levels at random frequencies.
 *
 * @param weight the frequencies, which the checkpoint holds
 * @returns `[noise levels, 2 * weight.length]`
 * @see Diffusers `GaussianFourierProjection`
 */
export function gaussianFourier(
  levels: ArrayLike<number>,
  weight: Float32Array,
  { log, flipSinToCos, isDouble = false }: GaussianFourierOptions,
): Tensor {
  const round = isDouble ? (x: number) => x : fround;
  const half = weight.length;
  const data = new Float32Array(levels.length * half * 2);
  for (let n = 0; n < levels.length; n++) {
    const level = round(levels[n]!);
    const x = log ? round(Math.log(level)) : level;
    for (let i = 0; i < half; i++) {
      const angle = round(round(round(x * weight[i]!) * 2) * round(Math.PI));
      const [first, second] = flipSinToCos ? [Math.cos(angle), Math.sin(angle)] : [Math.sin(angle), Math.cos(angle)];
      data[n * half * 2 + i] = first;
      data[n * half * 2 + half + i] = second;
    }
  }
  return new Tensor("float32", data, [levels.length, half * 2]);
}

/** Options of {@link timestepEmbedding}. */
export interface TimestepEmbeddingOptions {
  /** The activation between the two layers. Default "silu". */
  readonly act?: string;
  /** An activation after them. */
  readonly postAct?: string | null;
  /** Added, after a projection without bias, before the first layer: `[batch, cond dim]`. */
  readonly condition?: Value;
}

/**
 * Two linear layers over an embedding: `[batch, in]` to `[batch, dim]`.
 *
 * @see Diffusers `TimestepEmbedding`
 */
export function timestepEmbedding(
  g: GraphBuilder,
  x: Value,
  name: string,
  dim: number,
  { act = "silu", postAct, condition }: TimestepEmbeddingOptions = {},
): Value {
  let sample = x;
  if (condition !== undefined) {
    const projected = linear(g, condition, `${name}.cond_proj`, x.dims[1]!, { bias: false });
    sample = g.op("Add", [sample, projected], sample.dims);
  }
  sample = activation(g, linear(g, sample, `${name}.linear_1`, dim), act);
  sample = linear(g, sample, `${name}.linear_2`, dim);
  return postAct === null || postAct === undefined ? sample : activation(g, sample, postAct);
}
