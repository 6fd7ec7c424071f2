import type { Generator, Tensor } from "@diffusers-web/core";
import { checkGenerator } from "../checks.ts";
import type { Prompt } from "../prompt.ts";
import { randomGenerator } from "../random_generator.ts";

/** What of a call with prompts tells how many pictures it makes; `prompt` or `prompt_embeds` is there. */
export interface CallSize {
  readonly prompt?: Prompt | null;
  readonly prompt_embeds?: Tensor | null;
  readonly num_images_per_prompt?: number;
  readonly generator?: Generator | readonly Generator[] | null;
}

/**
 * How many pictures a call makes, and where their noise comes from: without a generator, one of our own, so that its seed can be
 * told.
 *
 * @throws ValueError for a list of generators that is not as long as the batch, TypeError for what is no generator.
 */
export function callParameters({ prompt, prompt_embeds, num_images_per_prompt = 1, generator }: CallSize): {
  readonly batch: number;
  readonly generator: Generator | readonly Generator[];
} {
  const prompts = typeof prompt === "string" ? [prompt] : prompt;
  const batch_size = prompts?.length ?? prompt_embeds!.dims[0]!;
  const batch = batch_size * num_images_per_prompt;
  checkGenerator(generator, batch);
  return { batch, generator: generator ?? randomGenerator() };
}
