import type { Tensor } from "@diffusers-web/core";
import type { CLIPTextModelWithProjection, UNet2DConditionModel } from "@diffusers-web/models";
import { checkNumber } from "../checks.ts";
import { addedWidths, type MicroConditioning, type Pair, projectionDim, wrongWidth } from "./micro_conditioning.ts";

/** What the UNet is told of a picture's past where it may be told scores as well: part of a call's options. */
export interface ScoredConditioning extends MicroConditioning {
  /** How well people like the picture, as its refiner was told in training: around 6. Default 6. */
  readonly aesthetic_score?: number;
  /** The same of the picture that it should not be like. Default 2.5. */
  readonly negative_aesthetic_score?: number;
  /** Of the picture that it should not be like. Default: as `original_size`. */
  readonly negative_original_size?: Pair | null;
  /** Of the picture that it should not be like: used with aesthetic scores only. Default `[0, 0]`. */
  readonly negative_crops_coords_top_left?: Pair;
  /** Of the picture that it should not be like. Default: as `target_size`. */
  readonly negative_target_size?: Pair | null;
}

/** The names of {@link ScoredConditioning} that {@link MicroConditioning} has not. */
export const scoreNames: readonly (keyof ScoredConditioning)[] = ["aesthetic_score", "negative_aesthetic_score"];

/** The part of a pipeline that says what its UNet is told. */
export interface ScoredParts {
  readonly unet: UNet2DConditionModel;
  readonly text_encoder_2: CLIPTextModelWithProjection | null;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Whether the UNet is told aesthetic scores in place of the target size. */
function requiresScores({ config }: ScoredParts): boolean {
  return config["requires_aesthetics_score"] === true;
}

/** @throws ValueError for what is no score, and for a UNet that expects another number of time ids. */
export function checkScores(
  parts: ScoredParts,
  options: ScoredConditioning & { readonly pooled_prompt_embeds?: Tensor | null },
): void {
  checkNumber("aesthetic_score", options.aesthetic_score ?? 6);
  checkNumber("negative_aesthetic_score", options.negative_aesthetic_score ?? 2.5);
  const textWidth = projectionDim(parts.text_encoder_2, options.pooled_prompt_embeds);
  if (textWidth === undefined) return;
  const isScored = requiresScores(parts);
  const widths = addedWidths(parts.unet, isScored ? 5 : 6, textWidth);
  if (widths.expected === widths.passed) return;
  const missing = widths.expected - widths.passed;
  const advice =
    missing === (isScored ? widths.each : -widths.each)
      ? "Set the scores right: pipeline.register_to_config({ requires_aesthetics_score: " +
        `${!isScored} }), or the option of from_pretrained. The refiner has them, and base models have not.`
      : "See the UNet's `addition_time_embed_dim` and the `projection_dim` of text_encoder_2.";
  throw wrongWidth(widths, advice);
}

/**
 * What the UNet is told of a picture's past, and of one that it should not be like.
 *
 * @see Diffusers `StableDiffusionXLImg2ImgPipeline._get_add_time_ids`
 */
export function scoredTimeIds(
  parts: ScoredParts,
  options: ScoredConditioning,
  height: number,
  width: number,
): [time_ids: number[], negative: number[]] {
  const { crops_coords_top_left = [0, 0], negative_crops_coords_top_left = [0, 0] } = options;
  const { aesthetic_score = 6, negative_aesthetic_score = 2.5 } = options;
  const original_size = options.original_size ?? [height, width];
  const target_size = options.target_size ?? [height, width];
  const negative_original_size = options.negative_original_size ?? original_size;
  const negative_target_size = options.negative_target_size ?? target_size;
  if (requiresScores(parts)) {
    return [
      [...original_size, ...crops_coords_top_left, aesthetic_score],
      [...negative_original_size, ...negative_crops_coords_top_left, negative_aesthetic_score],
    ];
  }
  return [
    [...original_size, ...crops_coords_top_left, ...target_size],
    // Diffusers takes the same crop for both.
    [...negative_original_size, ...crops_coords_top_left, ...negative_target_size],
  ];
}
