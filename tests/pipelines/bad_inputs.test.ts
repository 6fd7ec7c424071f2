/**
 * Bad calls of every pipeline: each is refused by name before a model runs, and the pipeline can be called afterwards. What
 * Diffusers lets pass, passes.
 */
import {
  type AnyPipeline,
  ControlNetModel,
  DiffusionPipeline,
  Generator,
  LatentConsistencyModelImg2ImgPipeline,
  LatentConsistencyModelPipeline,
  LCMScheduler,
  RawImage,
  StableDiffusionAdapterPipeline,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionInpaintPipeline,
  StableDiffusionInstructPix2PixPipeline,
  StableDiffusionPAGImg2ImgPipeline,
  StableDiffusionPAGPipeline,
  StableDiffusionXLAdapterPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  StableDiffusionXLImg2ImgPipeline,
  StableDiffusionXLInpaintPipeline,
  StableDiffusionXLInstructPix2PixPipeline,
  StableDiffusionXLPAGImg2ImgPipeline,
  StableDiffusionXLPAGPipeline,
  T2IAdapter,
  UNet2DConditionModel,
  ValueError,
  WeightsMismatchError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { pipelineRegistry } from "../../packages/pipelines/src/registry.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";
import { load as loadDepth } from "./runners/depth2img.ts";
import { load as loadUnconditional } from "./runners/unconditional.ts";
import { load as loadUpscalers } from "./runners/upscale.ts";

type ErrorClass = typeof ValueError | typeof TypeError;
type Bad = readonly [what: string, options: object, error: ErrorClass, message: RegExp];
type Good = readonly [what: string, options: object];

interface Row {
  /** The options of a call that works. */
  readonly good: object;
  readonly bad: readonly Bad[];
  /** Found when what guides the run is encoded already. */
  readonly late?: readonly Bad[];
  /** What Diffusers lets pass. */
  readonly passes?: readonly Good[];
  /** A LoRA of tests/fixtures/pipelines/lora-tiny for another model. */
  readonly lora?: keyof typeof notFitting;
}

/** What is said of a LoRA for another model: its first tensor that does not fit. */
const notFitting = {
  xl: /\(text_encoder\S*\.lora_A\.weight\), which a \w+ does not have/,
  attention: /unet\.\S+\.lora_A\.weight is \[\d+, \d+\], expected \[\d+, \d+\]/,
};
const device = "wasm";
const path = (name: string): string => fixturePath(`pipelines/${name}`);
const seeded = (): Generator => new Generator().manual_seed(0);

/** A picture with a gradient. */
function picture(width: number, height: number, channels: 1 | 3 | 4 = 3): RawImage {
  const data = Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 7) % 256);
  return new RawImage(data, width, height, channels);
}
const photo = picture(32, 32);
const mask = new RawImage(
  Uint8Array.from({ length: 32 * 32 }, (_, i) => (i % 32 < 16 ? 255 : 0)),
  32,
  32,
  1,
);

// What is wrong with a call of any pipeline.
const steps = (least = 1): readonly Bad[] =>
  [0, -1, 1.5, Number.NaN].map((n) => [
    `${n} steps`,
    { num_inference_steps: n },
    ValueError,
    new RegExp(`\`num_inference_steps\` is ${n}, expected a whole number of at least ${least}`),
  ]);
const generators: readonly Bad[] = [
  [
    "too many generators",
    { generator: [seeded(), seeded(), seeded()] },
    ValueError,
    /`generator` is a list of 3, but the batch is 1/,
  ],
  ["a generator that is a number", { generator: 42 }, TypeError, /`generator` is neither a Generator nor a list/],
];
const strangers: readonly Bad[] = [
  [
    "an unknown option",
    { num_inference_step: 2 },
    TypeError,
    /`num_inference_step`.*Did you mean `num_inference_steps`/,
  ],
  ["an unknown output", { output_type: "np" }, ValueError, /`output_type` is "np", expected one of image, pil, tensor/],
];
const any = (least?: number): readonly Bad[] => [...steps(least), ...strangers, ...generators];
const noPrompt: Bad = ["a prompt", { prompt: "a cat" }, TypeError, /`prompt`/];

// Of those with a prompt.
const guided: readonly Bad[] = [
  ["a NaN guidance", { guidance_scale: Number.NaN }, ValueError, /`guidance_scale` is NaN, expected a number/],
  [
    "a tensor that the callback is not shown",
    { callback_on_step_end_tensor_inputs: ["latent"] },
    ValueError,
    /`callback_on_step_end_tensor_inputs` has "latent", expected some of latents/,
  ],
];
const prompted: readonly Bad[] = [
  ...any(),
  ...guided,
  ["no prompt", { prompt: null }, ValueError, /Neither `prompt` nor `prompt_embeds`/],
  ["an empty list of prompts", { prompt: [] }, ValueError, /`prompt` is \[\], expected a string or a list of strings/],
  ["a prompt that is a number", { prompt: 3 }, ValueError, /`prompt` is number, expected a string/],
];

// Of those with a size.
const odd: readonly Bad[] = [
  ["a height that 8 does not divide", { height: 33, width: 32 }, ValueError, /divisible by \d, but `height` is 33/],
  ["a negative width", { height: 32, width: -8 }, ValueError, /divisible by \d, but `width` is -8/],
];
/** 0 is no size in Python: the default is taken... */
const zero: Good = ["a height of 0", { height: 0, width: 0 }];
/** ...but not where the default is that of a picture. */
const noHeight: Bad = ["a height of 0", { height: 0, width: 32 }, ValueError, /`height` is 0/];
const roundedDown: Good = ["a height that is rounded down to whole latents", { height: 33, width: 32 }];

// Of those with a picture.
const none = (field: string): Bad => [
  `no ${field}`,
  { [field]: null },
  ValueError,
  new RegExp(`\`${field}\` is nothing`),
];
const pictures = (size = 32, taker = "the autoencoder"): readonly Bad[] => [
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
const tooMany = (size = 32): readonly Bad[] => [
  [
    "more pictures than prompts",
    { image: [picture(size, size), picture(size, size), picture(size, size)] },
    ValueError,
    /3 pictures/,
  ],
];
/** Where a picture is made RGB. */
const anyPictures = (field: string): readonly Good[] => [
  [`${field} with alpha`, { [field]: picture(32, 32, 4) }],
  [`gray ${field}`, { [field]: picture(32, 32, 1) }],
];
const strengths: readonly Bad[] = [1.5, -0.1, Number.NaN].map((strength) => [
  `a strength of ${strength}`,
  { strength },
  ValueError,
  new RegExp(`\`strength\` is ${strength}, expected a number`),
]);
const noStrength: readonly Bad[] = [
  ["a strength of 0", { strength: 0 }, ValueError, /`strength` 0 leaves none of the 2 steps/],
];
/** PNDM goes through one timestep more than there are steps. */
const oneStepLeft: Good = ["a strength of 0, which leaves PNDM a step", { strength: 0 }];
const otherMask: Good = ["a mask of another size", { mask_image: picture(31, 17, 1) }];

// Of those with a ControlNet.
const control = (field: string): readonly Bad[] => [
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
const controlMask: Bad = [
  "a mask of another size, without one to bring both to",
  { mask_image: picture(31, 17, 1) },
  ValueError,
  /`mask_image` has a picture of \d+ x 16 where 32 x 32 is expected/,
];
const broughtMask: Good = ["a mask of another size, brought to one", { ...otherMask[1], height: 32, width: 32 }];

const text = { prompt: "a cat", num_inference_steps: 2, guidance_scale: 2, output_type: "latent" };
const sized = { ...text, height: 32, width: 32 };
const { prompt: _, ...variation } = sized;
const image = { ...text, image: photo };
const inpaint = { ...sized, image: photo, mask_image: mask };
const start = { ...image, control_image: photo };
const fill = { ...start, mask_image: mask };
const small = { ...text, image: picture(16, 16) };
const unconditional = { num_inference_steps: 2, output_type: "tensor" };

const rows: Readonly<Record<string, Row>> = {
  ConsistencyModelPipeline: { good: unconditional, bad: [...any(), noPrompt] },
  DDIMPipeline: { good: unconditional, bad: [...any(), noPrompt] },
  DDPMPipeline: { good: unconditional, bad: [...any(), noPrompt] },
  KarrasVePipeline: { good: unconditional, bad: [...any(2), noPrompt] },
  LDMPipeline: { good: unconditional, bad: [...any(), noPrompt] },
  PNDMPipeline: { good: { ...unconditional, num_inference_steps: 4 }, bad: [...any(), noPrompt] },
  ScoreSdeVePipeline: { good: unconditional, bad: [...any(), noPrompt] },

  StableDiffusionPipeline: { good: sized, bad: [...prompted, ...odd], passes: [zero], lora: "xl" },
  StableDiffusionImg2ImgPipeline: {
    good: image,
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    passes: [oneStepLeft],
    lora: "xl",
  },
  StableDiffusionInpaintPipeline: {
    good: inpaint,
    bad: [...prompted, ...odd, ...pictures(), ...tooMany(), ...strengths, none("mask_image")],
    late: noStrength,
    passes: [zero, otherMask],
    lora: "xl",
  },
  StableDiffusionDepth2ImgPipeline: {
    good: image,
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    passes: [oneStepLeft],
    lora: "xl",
  },
  StableDiffusionImageVariationPipeline: {
    good: { ...variation, image: photo },
    bad: [...steps(), ...strangers, ...guided, ...odd, none("image"), noPrompt],
    late: generators,
    passes: [zero, ...anyPictures("image")],
    lora: "xl",
  },
  StableDiffusionInstructPix2PixPipeline: { good: image, bad: [...prompted, ...pictures(), ...tooMany()], lora: "xl" },
  StableDiffusionUpscalePipeline: { good: small, bad: [...prompted, ...pictures(16), ...tooMany(16)], lora: "xl" },
  StableDiffusionLatentUpscalePipeline: { good: small, bad: [...prompted, ...pictures(16), ...tooMany(16)] },
  LatentConsistencyModelPipeline: { good: sized, bad: [...prompted, ...odd], passes: [zero], lora: "xl" },
  LatentConsistencyModelImg2ImgPipeline: {
    good: image,
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    late: [["a strength of 0", { strength: 0 }, ValueError, /`num_inference_steps`: 2 cannot be larger than/]],
    lora: "xl",
  },
  StableDiffusionControlNetPipeline: {
    good: image,
    bad: [...prompted, ...control("image")],
    passes: [roundedDown, ...anyPictures("image")],
    lora: "xl",
  },
  StableDiffusionControlNetImg2ImgPipeline: {
    good: start,
    bad: [...prompted, ...strengths, none("image"), ...control("control_image")],
    passes: [oneStepLeft, roundedDown, ...anyPictures("image"), ...anyPictures("control_image")],
    lora: "xl",
  },
  StableDiffusionControlNetInpaintPipeline: {
    good: fill,
    bad: [
      ...[...prompted, ...odd, ...pictures(), ...tooMany(), ...strengths, none("mask_image"), controlMask],
      ...control("control_image"),
    ],
    passes: [oneStepLeft, broughtMask, ...anyPictures("control_image")],
    lora: "xl",
  },
  StableDiffusionAdapterPipeline: {
    good: image,
    bad: [...prompted, ...odd, noHeight, ...pictures(32, "the adapter")],
    late: tooMany(),
    lora: "xl",
  },
  StableDiffusionPAGPipeline: { good: sized, bad: [...prompted, ...odd], passes: [zero], lora: "xl" },
  StableDiffusionPAGImg2ImgPipeline: {
    good: image,
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    passes: [oneStepLeft],
    lora: "xl",
  },

  StableDiffusionXLPipeline: { good: sized, bad: [...prompted, ...odd], passes: [zero], lora: "attention" },
  StableDiffusionXLImg2ImgPipeline: {
    good: { ...image, strength: 0.5 },
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    late: noStrength,
    lora: "attention",
  },
  StableDiffusionXLInpaintPipeline: {
    good: inpaint,
    bad: [...prompted, ...odd, ...pictures(), ...tooMany(), ...strengths, none("mask_image")],
    late: noStrength,
    passes: [zero, otherMask],
    lora: "attention",
  },
  StableDiffusionXLInstructPix2PixPipeline: {
    good: { ...image, height: 32, width: 32 },
    bad: [...prompted, ...pictures(), ...tooMany()],
    passes: [zero],
    lora: "attention",
  },
  StableDiffusionXLControlNetPipeline: {
    good: image,
    bad: [...prompted, ...control("image")],
    passes: [roundedDown, ...anyPictures("image")],
    lora: "attention",
  },
  StableDiffusionXLControlNetImg2ImgPipeline: {
    good: start,
    bad: [...prompted, ...strengths, none("image"), ...control("control_image")],
    late: noStrength,
    passes: [roundedDown, ...anyPictures("image"), ...anyPictures("control_image")],
    lora: "attention",
  },
  StableDiffusionXLControlNetInpaintPipeline: {
    good: fill,
    bad: [
      ...[...prompted, ...pictures(), ...tooMany(), ...strengths, none("mask_image"), controlMask],
      ...control("control_image"),
    ],
    late: noStrength,
    passes: [roundedDown, broughtMask, ...anyPictures("control_image")],
    lora: "attention",
  },
  StableDiffusionXLAdapterPipeline: {
    good: image,
    bad: [...prompted, ...odd, noHeight, ...pictures(32, "the adapter")],
    late: tooMany(),
    lora: "attention",
  },
  StableDiffusionXLPAGPipeline: { good: sized, bad: [...prompted, ...odd], passes: [zero], lora: "attention" },
  StableDiffusionXLPAGImg2ImgPipeline: {
    good: { ...image, strength: 0.5 },
    bad: [...prompted, ...pictures(), ...tooMany(), ...strengths],
    late: noStrength,
    lora: "attention",
  },
};

const pipelines: Record<string, AnyPipeline> = {};
/** The components that ran since a test began. */
let ran: string[] = [];
beforeAll(async () => {
  // Diffusers warns of what is not in a LoRA, of long prompts and of sizes as well.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  const place = { device, path: fixturePath } as const;
  const unetOf = (name: string) => UNet2DConditionModel.from_pretrained(path(name), { device });
  const netOf = (name: string) => ControlNetModel.from_pretrained(path(`controlnet-tiny/${name}`), { device });
  const adapterOf = (name: string) => T2IAdapter.from_pretrained(path(`t2i-adapter-tiny/${name}`), { device });
  const sd = await DiffusionPipeline.from_pretrained(path("sd1-tiny"), { device });
  const xl = await DiffusionPipeline.from_pretrained(path("sdxl-tiny"), { device });
  const lcm = {
    unet: await unetOf("img2img-tiny/unet-lcm"),
    scheduler: LCMScheduler.from_config(sd.scheduler.config),
  };
  const controlnet = await netOf("sd");
  const xlNet = { controlnet: await netOf("xl") };
  const { unet, vae, scheduler } = sd;
  const { shapes } = JSON.parse(fixtureText("pipelines/upscale.json")) as { shapes: [string, number[]][] };
  const upscalers = await loadUpscalers(place, { shapes });
  const all: readonly object[] = [
    ...Object.values(await loadUnconditional(place)),
    await DiffusionPipeline.from_pretrained(path("ddim-tiny"), { device }),
    ...Object.values(await loadDepth(place)),
    ...[upscalers["x4"]!, upscalers["x2"]!],
    await DiffusionPipeline.from_pretrained(path("image-variation-tiny"), {
      ...({ device, unet, vae, scheduler } as object),
    }),
    sd,
    await StableDiffusionImg2ImgPipeline.from_pipe(sd),
    await StableDiffusionInpaintPipeline.from_pipe(sd),
    await StableDiffusionInstructPix2PixPipeline.from_pipe(sd, { unet: await unetOf("pix2pix-tiny/unet") }),
    await LatentConsistencyModelPipeline.from_pipe(sd, lcm),
    await LatentConsistencyModelImg2ImgPipeline.from_pipe(sd, lcm),
    await StableDiffusionControlNetPipeline.from_pipe(sd, { controlnet }),
    await StableDiffusionControlNetImg2ImgPipeline.from_pipe(sd, { controlnet }),
    await StableDiffusionControlNetInpaintPipeline.from_pipe(sd, { controlnet }),
    await StableDiffusionAdapterPipeline.from_pipe(sd, { adapter: await adapterOf("adapter") }),
    await StableDiffusionPAGPipeline.from_pipe(sd),
    await StableDiffusionPAGImg2ImgPipeline.from_pipe(sd),
    xl,
    await StableDiffusionXLImg2ImgPipeline.from_pipe(xl),
    await StableDiffusionXLInpaintPipeline.from_pipe(xl),
    await StableDiffusionXLInstructPix2PixPipeline.from_pipe(xl, { unet: await unetOf("pix2pix-tiny/unet-xl") }),
    await StableDiffusionXLControlNetPipeline.from_pipe(xl, xlNet),
    await StableDiffusionXLControlNetImg2ImgPipeline.from_pipe(xl, xlNet),
    await StableDiffusionXLControlNetInpaintPipeline.from_pipe(xl, xlNet),
    await StableDiffusionXLAdapterPipeline.from_pipe(xl, {
      unet: await unetOf("t2i-adapter-tiny/unet-xl"),
      adapter: await adapterOf("adapter-xl"),
    }),
    await StableDiffusionXLPAGPipeline.from_pipe(xl),
    await StableDiffusionXLPAGImg2ImgPipeline.from_pipe(xl),
  ];
  for (const pipeline of all as AnyPipeline[]) {
    pipelines[pipeline.constructor.name] = pipeline;
    for (const [name, component] of Object.entries(pipeline.components)) {
      if (component !== null && "before_run" in component) {
        component.before_run = async () => void ran.push(name);
      }
    }
  }
});
beforeEach(() => {
  ran = [];
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

test("every pipeline is here", () => {
  expect(Object.keys(rows).sort()).toEqual(Object.keys(pipelineRegistry).sort());
  expect(Object.keys(pipelines).sort()).toEqual(Object.keys(pipelineRegistry).sort());
});

describe.each(Object.entries(rows))("%s", (name, { good, bad, late = [], passes = [], lora }) => {
  const call = (options: object): Promise<unknown> =>
    (pipelines[name] as unknown as (options: object) => Promise<unknown>)({
      ...good,
      generator: seeded(),
      ...options,
    });

  test.each(bad)("%s", async (_, options, error, message) => {
    const failed = call(options);
    await expect(failed).rejects.toThrow(error);
    await expect(failed).rejects.toThrow(message);
    expect(ran).toEqual([]);
  });

  test("no scheduler", async () => {
    const pipeline = pipelines[name]!;
    const { scheduler } = pipeline;
    Object.assign(pipeline, { scheduler: null });
    try {
      const failed = call({});
      await expect(failed).rejects.toThrow(ValueError);
      await expect(failed).rejects.toThrow(/without its scheduler, which this call needs: assign one/);
      expect(ran).toEqual([]);
    } finally {
      pipeline.scheduler = scheduler;
    }
  });

  test.for(late)("%s", async ([_, options, error, message]) => {
    const failed = call(options);
    await expect(failed).rejects.toThrow(error);
    await expect(failed).rejects.toThrow(message);
    expect(ran.filter((component) => !component.includes("encoder"))).toEqual([]);
  });

  if (lora !== undefined) {
    test("a LoRA for another model, and an adapter that is not there", async () => {
      const pipeline = pipelines[name]!;
      const loading = pipeline.load_lora_weights(path("lora-tiny"), { weight_name: `${lora}.safetensors` });
      await expect(loading).rejects.toThrow(WeightsMismatchError);
      await expect(loading).rejects.toThrow(notFitting[lora]);
      expect(pipeline.get_list_adapters()).toEqual({});
      expect(() => pipeline.set_adapters("missing")).toThrow(ValueError);
      expect(() => pipeline.set_adapters("missing")).toThrow(/there is no adapter missing. Loaded are: none/);
    });
  }

  test.each<Good>([["a good call", {}], ...passes])("%s", async (_, options) => {
    await call(options);
    expect(ran).toContain("unet");
  });
});
