import {
  type DeviceInfo,
  DiffusionPipeline,
  Generator,
  type LoadProgress,
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

function reply(message: Reply, transfer: Transferable[] = []): void {
  postMessage(message, { transfer });
}

onmessage = ({ data: request }: MessageEvent<Request>): void => {
  if (request.type === "abort") {
    // What stands before the run in the queue (a load that was begun ahead of it) would only hold it up.
    for (const [run, controller] of controllers) if (run <= request.run) controller.abort();
    return;
  }
  const controller = new AbortController();
  controllers.set(request.run, controller);
  turn = turn.then(async () => {
    try {
      await handle(request, controller.signal);
    } catch (error) {
      // A lost device takes what was on it along: the next run loads anew.
      if (error instanceof Error && error.name === "DeviceError") await forget();
      reply({ type: "failed", run: request.run, error: serializeError(error) });
    } finally {
      controllers.delete(request.run);
    }
  });
};

reply({ type: "hello", schedulers: Object.keys(schedulerRegistry) });

async function handle(request: Exclude<Request, { type: "abort" }>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const current = await load(request, signal);
  const { run } = request;
  const device = describe(current.pipeline.device_info);
  reply({ type: "loaded", run, device, scheduler: current.saved.constructor.name });
  if (request.type === "load") reply({ type: "ready", run });
  else await generate(current, run, request.settings, device, signal);
}
