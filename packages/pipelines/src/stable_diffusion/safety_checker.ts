import { type Tensor, ValueError } from "@diffusers-web/core";
import type { StableDiffusionSafetyChecker } from "@diffusers-web/models";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import type { VaeImageProcessor } from "../image_processor.ts";

/** What a pipeline checks its pictures with. */
export interface CheckingParts {
  readonly image_processor: VaeImageProcessor;
  readonly safety_checker: StableDiffusionSafetyChecker | null;
  readonly feature_extractor: CLIPImageProcessor | null;
}

/** Pictures that went by the safety checker. */
export interface CheckedPictures {
  /** `[batch, channels, height, width]`, around -1..1; flagged ones are 0. */
  readonly image: Tensor;
  /** For each picture, whether it was flagged; null without a safety checker. */
  readonly has_nsfw_concept: boolean[] | null;
}

/**
 * Lets the safety checker look at pictures, if there is one.
 *
 * @param image what the VAE gave, `[batch, channels, height, width]`
 * @see Diffusers `StableDiffusionPipeline.run_safety_checker`
 */
export async function run_safety_checker(
  { safety_checker, feature_extractor, image_processor }: CheckingParts,
  image: Tensor,
): Promise<CheckedPictures> {
  if (safety_checker === null) return { image, has_nsfw_concept: null };
  if (feature_extractor === null) throw noFeatureExtractor();
  const { pixel_values } = await feature_extractor(image_processor.postprocess(image));
  const { images, has_nsfw_concepts } = await safety_checker(pixel_values, image);
  return { image: images, has_nsfw_concept: has_nsfw_concepts };
}

/**
 * @param requires_safety_checker whether to warn when there is none
 * @throws ValueError for a safety checker without the feature extractor that prepares pictures for it.
 */
export function checkSafetyParts(
  safety_checker: StableDiffusionSafetyChecker | null | undefined,
  feature_extractor: CLIPImageProcessor | null | undefined,
  requires_safety_checker: boolean,
): void {
  if (safety_checker != null && feature_extractor == null) throw noFeatureExtractor();
  if (safety_checker != null || !requires_safety_checker) return;
  console.warn(
    "This pipeline runs without a safety checker. The licence of Stable Diffusion asks you not to put unfiltered " +
      "pictures before the public: filter them, or keep this to analysis and private use.",
  );
}

function noFeatureExtractor(): ValueError {
  return new ValueError(
    "A safety checker needs a `feature_extractor`, which prepares pictures for it: pass one (a CLIPImageProcessor), or " +
      "{ safety_checker: null } to do without.",
    { field: "feature_extractor", found: "null", expected: "a CLIPImageProcessor" },
  );
}
