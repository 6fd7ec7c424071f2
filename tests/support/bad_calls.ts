/** What can be wrong with a call of a pipeline, and what Diffusers lets pass: for tests/pipelines/bad_inputs.test.ts. */
import { Generator, RawImage, ValueError } from "@diffusers-web/pipelines";

type ErrorClass = typeof ValueError | typeof TypeError;
export type Bad = readonly [what: string, options: object, error: ErrorClass, message: RegExp];
export type Good = readonly [what: string, options: object];

export const seeded = (): Generator => new Generator().manual_seed(0);

/** A picture with a gradient. */
export function picture(width: number, height: number, channels: 1 | 3 | 4 = 3): RawImage {
  const data = Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 7) % 256);
  return new RawImage(data, width, height, channels);
}
export const photo: RawImage = picture(32, 32);
export const mask: RawImage = new RawImage(
  Uint8Array.from({ length: 32 * 32 }, (_, i) => (i % 32 < 16 ? 255 : 0)),
  32,
  32,
  1,
);

// What is wrong with a call of any pipeline.
export const steps = (least = 1): readonly Bad[] =>
  [0, -1, 1.5, Number.NaN].map((n) => [
    `${n} steps`,
    { num_inference_steps: n },
    ValueError,
    new RegExp(`\`num_inference_steps\` is ${n}, expected a whole number of at least ${least}`),
  ]);
export const generators: readonly Bad[] = [
  [
    "too many generators",
    { generator: [seeded(), seeded(), seeded()] },
    ValueError,
    /`generator` is a list of 3, but the batch is 1/,
  ],
  ["a generator that is a number", { generator: 42 }, TypeError, /`generator` is neither a Generator nor a list/],
];
export const strangers: readonly Bad[] = [
  [
    "an unknown option",
    { num_inference_step: 2 },
    TypeError,
    /`num_inference_step`.*Did you mean `num_inference_steps`/,
  ],
  ["an unknown output", { output_type: "np" }, ValueError, /`output_type` is "np", expected one of image, pil, tensor/],
];
export const any = (least?: number): readonly Bad[] => [...steps(least), ...strangers, ...generators];
export const noPrompt: Bad = ["a prompt", { prompt: "a cat" }, TypeError, /`prompt`/];

// Of those with a prompt.
export const guided: readonly Bad[] = [
  ["a NaN guidance", { guidance_scale: Number.NaN }, ValueError, /`guidance_scale` is NaN, expected a number/],
  [
    "a tensor that the callback is not shown",
    { callback_on_step_end_tensor_inputs: ["latent"] },
    ValueError,
    /`callback_on_step_end_tensor_inputs` has "latent", expected some of latents/,
  ],
];
export const prompted: readonly Bad[] = [
  ...any(),
  ...guided,
  ["no prompt", { prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\], expected a string or a list of strings/],
  ["a prompt that is a number", { prompt: 3 }, ValueError, /`prompt` is number, expected a string/],
];

// Of those with a size.
export const odd: readonly Bad[] = [
  ["a height that 8 does not divide", { height: 33, width: 32 }, ValueError, /divisible by \d, but `height` is 33/],
  ["a negative width", { height: 32, width: -8 }, ValueError, /divisible by \d, but `width` is -8/],
];
/** 0 is no size in Python: the default is taken... */
export const zero: Good = ["a height of 0", { height: 0, width: 0 }];
/** ...but not where the default is that of a picture. */
export const noHeight: Bad = ["a height of 0", { height: 0, width: 32 }, ValueError, /`height` is 0/];
export const roundedDown: Good = ["a height that is rounded down to whole latents", { height: 33, width: 32 }];

// Of those with a picture.
export const none = (field: string): Bad => [
  `no ${field}`,
  { [field]: null },
  ValueError,
  new RegExp(`\`${field}\` is nothing`),
];
export const pictures = (size = 32, taker = "the autoencoder"): readonly Bad[] => [
  none("image"),
  ["an empty list of pictures", { image: [] }, ValueError, /`image` is \[\]/],
  [
    "a picture with alpha",
    { image: picture(size, size, 4) },
    ValueError,
    new RegExp(`\`image\` is a picture with alpha of 4 channels, but ${taker} takes 3`),
  ],
  [
    "a gray picture",
    { image: picture(size, size, 1) },
    ValueError,
    new RegExp(`\`image\` is a gray picture of 1 channels, but ${taker} takes 3`),
  ],
];
export const tooMany = (size = 32): readonly Bad[] => [
  [
    "more pictures than prompts",
    { image: [picture(size, size), picture(size, size), picture(size, size)] },
    ValueError,
    /3 pictures/,
  ],
];
/** Where a picture is made RGB. */
export const anyPictures = (field: string): readonly Good[] => [
  [`${field} with alpha`, { [field]: picture(32, 32, 4) }],
  [`gray ${field}`, { [field]: picture(32, 32, 1) }],
];
export const strengths: readonly Bad[] = [1.5, -0.1, Number.NaN].map((strength) => [
  `a strength of ${strength}`,
  { strength },
  ValueError,
  new RegExp(`\`strength\` is ${strength}, expected a number`),
]);
export const noStrength: readonly Bad[] = [
  ["a strength of 0", { strength: 0 }, ValueError, /`strength` 0 leaves none of the 2 steps/],
];
/** PNDM goes through one timestep more than there are steps. */
export const oneStepLeft: Good = ["a strength of 0, which leaves PNDM a step", { strength: 0 }];
export const otherMask: Good = ["a mask of another size", { mask_image: picture(31, 17, 1) }];

// Of those with a ControlNet.
export const control = (field: string): readonly Bad[] => [
  none(field),
  noHeight,
  [
    "too many pictures for the net",
    { [field]: [photo, photo] },
    ValueError,
    new RegExp(`\`${field}\` has 2 pictures for 1 prompts: pass one`),
  ],
  [
    "scales for another number of nets",
    { controlnet_conditioning_scale: [1, 1] },
    ValueError,
    /`controlnet_conditioning_scale` has 2 numbers for one ControlNet/,
  ],
];
export const controlMask: Bad = [
  "a mask of another size, without one to bring both to",
  { mask_image: picture(31, 17, 1) },
  ValueError,
  /`mask_image` has a picture of \d+ x 16 where 32 x 32 is expected/,
];
export const broughtMask: Good = ["a mask of another size, brought to one", { ...otherMask[1], height: 32, width: 32 }];
