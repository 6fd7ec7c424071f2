import {
  type DeviceInfo,
  DiffusionPipeline,
  Generator,
  RawImage,
  type StableDiffusionPipeline,
  schedulerRegistry,
  serializeError,
  type Tensor,
} from "@diffusers-web/pipelines";
import { Previews } from "./previews.ts";
import type { DeviceReport, Frame, ModelRequest, Reply, Request, Settings } from "./protocol.ts";

interface Loaded {
  readonly model: string;
  readonly pipeline: StableDiffusionPipeline;
  /** The scheduler as it was saved with the model: every other one is made from its config. */
  readonly saved: StableDiffusionPipeline["scheduler"];
  device: ModelRequest["device"];
  /** The decoder has run on this device. */
  warm: boolean;
}

let loaded: Loaded | undefined;
/** Of the runs that are under way or wait for their turn. */
const controllers = new Map<number, AbortController>();
/** One run at a time, in the order in which they were asked for. */
let turn: Promise<void> = Promise.resolve();

addEventListener("message", ({ data: request }: MessageEvent<Request>): void => {
  if (request.type === "abort") {
    // What stands before the run in the queue (a load that was begun ahead of it) would only hold it up.
    for (const [run, controller] of controllers) if (run <= request.run) controller.abort();
    return;
  }
  const controller = new AbortController();
  controllers.set(request.run, controller);
  turn = turn.then(async () => {
    try {
      controller.signal.throwIfAborted();
      await handle(request, controller.signal);
    } catch (error) {
      const data = serializeError(error);
      // A lost device takes what was on it along: the next run loads anew.
      if (data.code === "DEVICE") await unload();
      reply({ type: "failed", run: request.run, error: data });
    } finally {
      controllers.delete(request.run);
    }
  });
});

// Those that take each other's configs; a model that is loaded narrows it down.
reply({ type: "hello", schedulers: schedulerNames((one) => one.compatible_classes.length > 0) });

function reply(message: Reply, transfer: Transferable[] = []): void {
  postMessage(message, { transfer });
}

function schedulerNames(wanted: (one: (typeof schedulerRegistry)[string]) => boolean): string[] {
  return Object.entries(schedulerRegistry)
    .filter(([, one]) => wanted(one))
    .map(([name]) => name);
}

async function handle(request: Exclude<Request, { type: "abort" }>, signal: AbortSignal): Promise<void> {
  const { run } = request;
  const current = await load(request, signal);
  const device = describe(current.pipeline.unet.device_info, request.device);
  const [scheduler = ""] = schedulerNames((one) => current.saved.constructor === one);
  const schedulers = Object.keys(schedulerRegistry).filter((name) => current.saved.compatibles.includes(name));
  reply({ type: "loaded", run, device, scheduler, schedulers });
  if (request.type === "load") reply({ type: "ready", run });
  else await generate(current, run, request.settings, device, signal);
}

/** The pipeline of that address on that device: the one at hand if it is that, or moved if only the device differs. */
async function load({ model, device }: ModelRequest, signal: AbortSignal): Promise<Loaded> {
  if (loaded?.model === model && loaded.device === device) return loaded;
  if (loaded?.model === model) {
    await loaded.pipeline.to(device);
    loaded.device = device;
    loaded.warm = false;
    return loaded;
  }
  await unload();
  const pipeline = (await DiffusionPipeline.from_pretrained(model, {
    device,
    signal,
    progress_callback: (progress) => reply({ type: "progress", progress }),
  })) as unknown as StableDiffusionPipeline;
  loaded = { model, pipeline, saved: pipeline.scheduler, device, warm: false };
  return loaded;
}

async function unload(): Promise<void> {
  const old = loaded;
  loaded = undefined;
  await old?.pipeline.dispose();
}

async function generate(
  current: Loaded,
  run: number,
  settings: Settings,
  device: DeviceReport,
  signal: AbortSignal,
): Promise<void> {
  const { pipeline } = current;
  const scheduler = schedulerRegistry[settings.scheduler];
  if (scheduler === undefined) throw new TypeError(`The package exports no scheduler ${settings.scheduler}.`);
  pipeline.scheduler = scheduler.from_config(current.saved.config);

  let previews: Previews | undefined;
  const began = performance.now();
  let before = began;
  const { images } = await pipeline(settings.prompt, {
    negative_prompt: settings.negativePrompt,
    num_inference_steps: settings.steps,
    guidance_scale: settings.guidance,
    generator: new Generator().manual_seed(settings.seed),
    signal,
    callback_on_step_end: async (_pipe, i, _t, { latents }) => {
      const total = pipeline.scheduler.timesteps.length;
      const step = i + 1;
      previews ??= new Previews(total, current.warm);
      previews.stepped(performance.now() - before);
      reply({ type: "step", run, step, total, left: previews.left(step) });
      if (latents !== undefined && previews.wanted(step)) {
        // A cancel that waits to be heard comes before a preview that nobody will see.
        await new Promise((resolve) => setTimeout(resolve));
        signal.throwIfAborted();
        const start = performance.now();
        const frame = await decode(pipeline, latents, step);
        previews.decoded(step, performance.now() - start);
        current.warm = true;
        reply({ type: "preview", run, frame }, [frame.pixels.buffer]);
      }
      before = performance.now();
      return {};
    },
  });
  const image = images[0] as RawImage;
  const seconds = (performance.now() - began) / 1000;
  const png = await image.toBlob("image/png");
  const frame = frameOf(image, pipeline.scheduler.timesteps.length);
  reply({ type: "picture", run, picture: { ...frame, png, seconds, device } }, [frame.pixels.buffer]);
}

/** The picture that the latents `[1, channels, height, width]` hold at this step. */
async function decode(pipeline: StableDiffusionPipeline, latents: Tensor, step: number): Promise<Frame> {
  const { sample } = await pipeline.vae.decode(latents.div(pipeline.vae.config.scaling_factor));
  return frameOf(RawImage.fromTensor(sample.div(2).add(0.5).clamp(0, 1)), step);
}

function frameOf({ width, height, channels, data }: RawImage, step: number): Frame {
  const pixels = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = data[i * channels + (channels === 1 ? 0 : c)]!;
    pixels[4 * i + 3] = 255;
  }
  return { step, width, height, pixels };
}

function describe(info: DeviceInfo, choice: ModelRequest["device"]): DeviceReport {
  const adapter = info.description !== "" ? info.description : `${info.vendor} ${info.architecture}`.trim();
  const dropped = info.dropped.map(({ what, why }) => `Not used: ${what} (${why}).`);
  return {
    type: info.type,
    name: info.type === "webgpu" ? adapter : "",
    dtype: info.dtype,
    reasons: [choice === "auto" ? info.reason : "Your choice.", ...dropped],
  };
}
