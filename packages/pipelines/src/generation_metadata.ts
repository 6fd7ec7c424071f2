import { Generator, type RawImage } from "@diffusers-web/core";

/** What a picture was made with. */
export interface GenerationParameters {
  readonly prompt?: string | undefined;
  readonly negative_prompt?: string | undefined;
  readonly num_inference_steps: number;
  readonly scheduler: string;
  readonly guidance_scale?: number | undefined;
  readonly generator?: Generator | readonly Generator[] | null | undefined;
  /** Where the model came from. */
  readonly model?: string | undefined;
  /** Further parameters, under the names that image tools know: `{ "Denoising strength": 0.8 }`. */
  readonly described?: Readonly<Record<string, string | number>> | undefined;
}

/**
 * Writes down in each picture what it was made with. The one text is in the form that image tools read: the prompt,
 * the negative prompt, then `Name: value` pairs.
 *
 * @param parameters one for each picture
 */
export function describeImages(images: readonly RawImage[], parameters: readonly GenerationParameters[]): void {
  images.forEach((image, i) => {
    const { prompt, negative_prompt, generator, ...made } = parameters[i]!;
    const single = generator instanceof Generator;
    const seed = single ? generator.initial_seed() : (generator?.[i] ?? generator?.[0])?.initial_seed();
    const pairs: [string, string | number | undefined][] = [
      ["Steps", made.num_inference_steps],
      ["Sampler", made.scheduler],
      ["CFG scale", made.guidance_scale],
      ["Seed", seed],
      ["Batch position", single && images.length > 1 ? `${i + 1}/${images.length}` : undefined],
      ["Size", `${image.width}x${image.height}`],
      ["Model", made.model?.replace(/^.*[/\\]/, "")],
      ...Object.entries(made.described ?? {}),
    ];
    const lines = [
      prompt,
      negative_prompt === undefined || negative_prompt === "" ? undefined : `Negative prompt: ${negative_prompt}`,
      pairs.flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}`])).join(", "),
    ];
    image.metadata["Software"] = "diffusers-web";
    image.metadata["parameters"] = lines.filter((line) => line !== undefined && line !== "").join("\n");
  });
}
