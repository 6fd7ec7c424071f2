import type { RawImage, Tensor } from "@diffusers-web/pipelines";
import { type Call, pictureOf, seeded, type Tensors } from "./calls.ts";

/** A call of a pipeline that is given pictures, as tests/fixtures/pipelines/make_inpaint.py and its like write them down. */
export interface PictureCall extends Omit<Call, "options"> {
  /** Those that differ from the base, if there is one. */
  readonly options: PictureCallOptions;
}

export type PictureCallOptions = Record<string, unknown> & {
  readonly seed: number | number[];
  readonly shows?: boolean;
  readonly low?: number;
  readonly normal?: boolean;
};

/** Those of tests/fixtures/pipelines/make_inpaint.py: a picture or mask by name. */
export type Pictures = (name: string) => RawImage;

/** The pictures of a fixture's tensors. */
export function picturesOf(tensors: Tensors): Pictures {
  return (name) => pictureOf(tensors[`picture/${name}`]!);
}

/** What a call gives as dims, in the order of its seeds. */
const drawn = ["prompt_embeds", "negative_prompt_embeds", "latents", "masked_image_latents"];
const drawnXL = ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"];

/** The options of a call: pictures by name, and random values for what it gives as dims. */
export function pictureOptions(
  base: PictureCallOptions,
  call: PictureCall,
  pictures: Pictures,
): { readonly shows: boolean; readonly options: Record<string, unknown> } {
  const { seed, low = 0, normal = false, shows = false, ...options } = { ...base, ...call.options };
  options["image"] = given(options["image"], 100, pictures, low, normal);
  if (options["mask_image"] !== undefined) options["mask_image"] = given(options["mask_image"], 200, pictures);
  for (const [i, key] of [...drawn, ...drawnXL].entries()) {
    if (key in options) options[key] = given(options[key], 300 + i, pictures, 0, true);
  }
  if ("timesteps" in options || "sigmas" in options) delete options["num_inference_steps"];
  return { shows, options: { ...options, generator: Array.isArray(seed) ? seed.map(seeded) : seeded(seed) } };
}

/** The pictures that a call names: one, a list, or random values of the dims given. */
function given(value: unknown, seed: number, pictures: Pictures, low = 0, normal = false): unknown {
  if (typeof value === "string") return pictures(value);
  const list = value as unknown[];
  if (typeof list[0] !== "number") return list.map((one, i) => given(one, seed + i, pictures, low, normal));
  const noise: Tensor = seeded(seed).randn(list as number[]);
  if (normal) return noise;
  return noise
    .mul(0.25)
    .add(0.5 + low / 2)
    .clamp(low, 1);
}
