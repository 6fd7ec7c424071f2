import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { conv2d } from "../layers/conv.ts";
import type { FeatureMap } from "../layers/layout.ts";

/**
 * A picture at the latents' size and channels: convolutions, every other one of them with stride 2.
 *
 * @param channels level by level; each but the last halves the size
 * @see Diffusers `ControlNetConditioningEmbedding`
 */
export function conditioningEmbedding(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  channels: readonly number[],
  out: number,
): FeatureMap {
  const silu = (map: FeatureMap): FeatureMap => ({ ...map, value: activation(g, map.value, "silu") });
  let hidden = silu(conv2d(g, x, `${name}.conv_in`, channels[0]!));
  for (let i = 0; i < channels.length - 1; i++) {
    hidden = silu(conv2d(g, hidden, `${name}.blocks.${2 * i}`, channels[i]!));
    hidden = silu(conv2d(g, hidden, `${name}.blocks.${2 * i + 1}`, channels[i + 1]!, { stride: 2, padding: 1 }));
  }
  return conv2d(g, hidden, `${name}.conv_out`, out);
}

/**
 * Checks the picture that conditions: for each latent it has as many pixels as the embedding makes one of. One picture may
 * be for the whole batch.
 *
 * @param levels of the embedding's config
 * @param sample the latents' dims
 * @throws ValueError saying which dims are expected.
 */
export function checkCondition(
  dims: readonly number[],
  channels: number,
  levels: number,
  sample: readonly number[],
  className: string,
): void {
  const [batch, , height, width] = sample as [number, number, number, number];
  const factor = 2 ** (levels - 1);
  // A halving of an odd size rounds up.
  const shrunk = (size: number): number => Math.ceil(size / factor);
  const isBatch = dims[0] === batch || dims[0] === 1;
  const isSize = shrunk(dims[2]!) === height && shrunk(dims[3]!) === width;
  if (dims.length === 4 && isBatch && dims[1] === channels && isSize) return;
  const expected = `[${batch === 1 ? 1 : `1 or ${batch}`}, ${channels}, ${height * factor}, ${width * factor}]`;
  throw new ValueError(
    `${className} takes a \`controlnet_cond\` of dims ${expected} for a sample of [${sample}], but got [${dims}].`,
    { className, field: "controlnet_cond", found: `[${dims}]`, expected },
  );
}
