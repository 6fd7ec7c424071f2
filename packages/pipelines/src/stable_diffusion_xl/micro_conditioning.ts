import { Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { CLIPTextModelWithProjection, UNet2DConditionModel } from "@diffusers-web/models";

/** Height and width (or the upper and the left edge) in pixels. */
export type Pair = readonly [number, number];

/** What the UNet is told of a picture's past: part of a call's options. */
export interface MicroConditioning {
  /** Height and width of the picture before it was brought to size: small ones give blurred pictures. Default: the size. */
  readonly original_size?: Pair | null;
  /** How many pixels were cut off above and on the left. Default `[0, 0]`: nothing is cut off. */
  readonly crops_coords_top_left?: Pair;
  /** Height and width that the picture is brought to. Default: the size. */
  readonly target_size?: Pair | null;
  /** What the picture should not be like: used together with `negative_target_size` only. Default: as `original_size`. */
  readonly negative_original_size?: Pair | null;
  /** Of the picture that it should not be like. Default `[0, 0]`. */
  readonly negative_crops_coords_top_left?: Pair;
  /** Of the picture that it should not be like: used together with `negative_original_size` only. Default: as `target_size`. */
  readonly negative_target_size?: Pair | null;
}

/** The names of {@link MicroConditioning}. */
export const microConditioningNames: readonly (keyof MicroConditioning)[] = [
  "original_size",
  "crops_coords_top_left",
  "target_size",
  "negative_original_size",
  "negative_crops_coords_top_left",
  "negative_target_size",
];

/** @throws ValueError for what is no pair of numbers. */
export function checkMicroConditioning(options: MicroConditioning): void {
  for (const name of microConditioningNames) {
    const value: unknown = options[name];
    const isPair = Array.isArray(value) && value.length === 2 && value.every((one) => Number.isFinite(one));
    if (value == null || isPair) continue;
    const found = JSON.stringify(value) ?? typeof value;
    throw new ValueError(`\`${name}\` is ${found}, expected two numbers.`, {
      field: name,
      found,
      expected: "[number, number]",
    });
  }
}

/** How many columns the pooled text has, which the UNet is given beside the numbers of {@link timeIds}. */
export function projectionDim(
  text_encoder_2: CLIPTextModelWithProjection | null,
  pooled_prompt_embeds: Tensor | null | undefined,
): number | undefined {
  return text_encoder_2?.config.projection_dim ?? pooled_prompt_embeds?.dims.at(-1);
}

/** The width that the UNet expects, and the width of what it would be given. */
export interface AddedWidths {
  readonly expected: number;
  readonly passed: number;
  /** Of each number's embedding. */
  readonly each: number;
}

/**
 * @param count how many numbers the UNet is given
 * @param textWidth columns of the pooled text
 * @throws UnsupportedModelError for a UNet that takes no such numbers.
 */
export function addedWidths(unet: UNet2DConditionModel, count: number, textWidth: number): AddedWidths {
  const { addition_embed_type, addition_time_embed_dim, projection_class_embeddings_input_dim } = unet.config;
  if (addition_embed_type !== "text_time") {
    throw new UnsupportedModelError(
      `The UNet has \`addition_embed_type\` ${JSON.stringify(addition_embed_type)}, so it is none of Stable Diffusion XL, which ` +
        'has "text_time". Use the pipeline that its checkpoint names.',
      {
        className: "UNet2DConditionModel",
        field: "addition_embed_type",
        found: String(addition_embed_type),
        expected: "text_time",
      },
    );
  }
  const each = addition_time_embed_dim!;
  return { expected: projection_class_embeddings_input_dim!, passed: each * count + textWidth, each };
}

/** What is said of a UNet that expects another width. */
export function wrongWidth({ expected, passed }: AddedWidths, advice: string): ValueError {
  return new ValueError(
    `The UNet expects an added embedding of length ${expected}, but one of ${passed} would be made. ${advice}`,
    { field: "projection_class_embeddings_input_dim", found: String(passed), expected: String(expected) },
  );
}

/**
 * What a UNet of the base model is told of a picture's past, and of one that it should not be like.
 *
 * @param height of the pictures that are drawn
 * @param width of the pictures that are drawn
 * @throws ValueError for a UNet that expects another number of them.
 * @see Diffusers `StableDiffusionXLPipeline._get_add_time_ids`
 */
export function textTimeIds(
  { unet, text_encoder_2 }: TimeIdParts,
  options: MicroConditioning & { readonly pooled_prompt_embeds?: Tensor | null },
  height: number,
  width: number,
): [number[], number[]] {
  const { crops_coords_top_left = [0, 0], negative_crops_coords_top_left = [0, 0] } = options;
  const { original_size, target_size, negative_original_size, negative_target_size } = options;
  const size = [height, width];
  const ids = [...(original_size ?? size), ...crops_coords_top_left, ...(target_size ?? size)];
  const textWidth = projectionDim(text_encoder_2, options.pooled_prompt_embeds);
  if (textWidth !== undefined) {
    const widths = addedWidths(unet, ids.length, textWidth);
    if (widths.expected !== widths.passed) {
      throw wrongWidth(
        widths,
        "A refiner belongs to StableDiffusionXLImg2ImgPipeline; else see the UNet's `addition_time_embed_dim` and the " +
          "`projection_dim` of text_encoder_2.",
      );
    }
  }
  if (negative_original_size == null || negative_target_size == null) return [ids, ids];
  return [ids, [...negative_original_size, ...negative_crops_coords_top_left, ...negative_target_size]];
}

/** What of a pipeline tells how wide the numbers may be. */
export interface TimeIdParts {
  readonly unet: UNet2DConditionModel;
  readonly text_encoder_2: CLIPTextModelWithProjection | null;
}

/** Numbers for each picture of a batch, `[rows, numbers]`. */
export function timeIds(rows: readonly (readonly number[])[]): Tensor {
  return new Tensor("float32", rows.flat(), [rows.length, rows[0]!.length]);
}
