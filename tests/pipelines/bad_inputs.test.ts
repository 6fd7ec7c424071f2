/**
 * Bad calls of every pipeline: each is refused by name before a model runs, and the pipeline can be called afterwards. What
 * Diffusers lets pass, passes.
 */
import {
  type AnyPipeline,
  ControlNetModel,
  DiffusionPipeline,
  LatentConsistencyModelImg2ImgPipeline,
  LatentConsistencyModelPipeline,
  LCMScheduler,
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
import {
  any,
  anyPictures,
  type Bad,
  broughtMask,
  control,
  controlMask,
  type Good,
  generators,
  guided,
  mask,
  noHeight,
  none,
  noPrompt,
  noStrength,
  odd,
  oneStepLeft,
  otherMask,
  photo,
  picture,
  pictures,
  prompted,
  roundedDown,
  seeded,
  steps,
  strangers,
  strengths,
  tooMany,
  zero,
} from "../support/bad_calls.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";
import { load as loadDepth } from "./runners/depth2img.ts";
import { load as loadUnconditional } from "./runners/unconditional.ts";
import { load as loadUpscalers } from "./runners/upscale.ts";

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
