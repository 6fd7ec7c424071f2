import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import type { FeatureMap } from "../layers/layout.ts";
import { upsampleNearest } from "../layers/upsampling.ts";
import { type DecoderOptions, decoder } from "./decoder.ts";

/** What a decoder is told of the picture that it fills in. */
export interface MaskCondition {
  /** `[batch, out_channels, height, width]` */
  readonly image: FeatureMap;
  /** One channel: 1 where the picture is to be filled in, 0 where it is to stay. */
  readonly mask: FeatureMap;
}

/**
 * Decodes, keeping to a picture where a mask says so.
 *
 * @param condition undefined: decodes without
 * @throws ValueError for channels that the features of the picture do not fit.
 * @see Diffusers `MaskConditionDecoder`
 */
export function maskConditionDecoder(
  g: GraphBuilder,
  sample: FeatureMap,
  name: string,
  options: DecoderOptions,
  condition: MaskCondition | undefined,
): FeatureMap {
  if (condition === undefined) return decoder(g, sample, name, options);
  const { image, mask } = condition;
  const kept = { ...mask, value: subtractedFromOne(g, mask) };
  const masked = multiply(g, image, kept);
  const features = maskConditionEncoder(g, masked, `${name}.condition_encoder`, options.block_out_channels);

  return decoder(g, sample, name, {
    ...options,
    condition: (x) => {
      // Diffusers finds them by their shape, so that of two the later one counts.
      const feature = features.findLast(
        ({ channels, height, width }) => channels === x.channels && height === x.height && width === x.width,
      );
      if (feature === undefined) throw noFeature(x, features);
      const isWhole = x.height === mask.height && x.width === mask.width;
      const here = isWhole ? mask : upsampleNearest(g, mask, x);
      const known = multiply(g, feature, { ...here, value: subtractedFromOne(g, here) });
      const drawn = multiply(g, x, here);
      return { ...x, value: g.op("Add", [drawn.value, known.value], x.value.dims) };
    },
  });
}

/**
 * Features of a picture in several sizes, from the largest on.
 *
 * @param channels of the decoder's levels
 * @see Diffusers `MaskConditionEncoder`
 */
export function maskConditionEncoder(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  channels: readonly number[],
): FeatureMap[] {
  const most = channels.at(-1)!;
  const widths = [1, 2, 4, 8].map((factor) => Math.min(channels[0]! * factor, most));
  const features: FeatureMap[] = [];
  let hidden = x;
  for (const [i, out] of [...widths, most].entries()) {
    const options = i < 2 ? {} : { kernel: 4, stride: 2, padding: 1 };
    const feature = conv2d(g, hidden, `${name}.layers.${i}`, out, options);
    features.push(feature);
    hidden = { ...feature, value: g.op("Relu", [feature.value], feature.value.dims) };
  }
  return features;
}

function subtractedFromOne(g: GraphBuilder, x: FeatureMap): Value {
  return g.op("Sub", [g.constant([1], []), x.value], x.value.dims);
}

/** Every channel of `x` times the one of `mask`; either may be one item for a whole batch. */
function multiply(g: GraphBuilder, x: FeatureMap, mask: FeatureMap): FeatureMap {
  const batch = Math.max(x.batch, mask.batch);
  const dims = [batch, ...x.value.dims.slice(1)];
  return { ...x, batch, value: g.op("Mul", [x.value, mask.value], dims) };
}

function noFeature(x: FeatureMap, features: readonly FeatureMap[]): ValueError {
  const show = ({ channels, height, width }: FeatureMap): string => `${channels}x${height}x${width}`;
  const className = "AsymmetricAutoencoderKL";
  return new ValueError(
    `${className} cannot fill in a picture with these \`up_block_out_channels\`: it meets a feature map of ${show(x)} ` +
      `(channels x height x width), and the picture has ${features.map(show).join(", ")}. Decode without image and mask.`,
    { className, field: "up_block_out_channels", found: show(x), expected: features.map(show).join(", ") },
  );
}
