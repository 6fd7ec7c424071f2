import { getDevice, memory_allocated, UNet2DConditionModel } from "@diffusers-web/models";
import { Generator, type PipelineLoadOptions, StableDiffusionPipeline, Tensor } from "@diffusers-web/pipelines";

/** What to load, and from where. */
export interface BenchModel {
  readonly kind: "sd15" | "sdxl";
  /** A hub id, or a base URL. */
  readonly source: string;
  readonly options: PipelineLoadOptions;
}

/** One step, as plain data. */
export type BenchStep =
  | { readonly name: "engine" | "text encoder" | "UNet step" | "VAE decoder" | "dispose" }
  | { readonly name: "load"; readonly model: BenchModel };

export interface StepResult {
  readonly ms: number;
  /** Bytes of the engine's heap. */
  readonly wasm: number;
  /** Bytes of weights on the device. */
  readonly device: number;
  /** A number that shows that something was computed. */
  readonly mean: number | undefined;
}

/** The engine's heap: it makes its memory before or while it is instantiated. */
const memories = new Set<WebAssembly.Memory>();
const { Memory, instantiate, instantiateStreaming } = WebAssembly;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.add(this);
  }
};
function keepMemory<T>(result: T): T {
  const { exports } = ((result as { instance?: WebAssembly.Instance }).instance ?? result) as WebAssembly.Instance;
  for (const value of Object.values(exports ?? {})) if (value instanceof Memory) memories.add(value);
  return result;
}
WebAssembly.instantiate = (async (...args: Parameters<typeof instantiate>) =>
  keepMemory(await instantiate(...args))) as typeof instantiate;
WebAssembly.instantiateStreaming = async (...args) => keepMemory(await instantiateStreaming(...args));

let pipeline: StableDiffusionPipeline | undefined;
let unet: UNet2DConditionModel | undefined;
let text: Tensor | undefined;

async function load({ kind, source, options }: BenchModel): Promise<undefined> {
  if (kind === "sd15") {
    pipeline = await StableDiffusionPipeline.from_pretrained(source, { ...options, safety_checker: null });
    unet = pipeline.unet;
  } else unet = await UNet2DConditionModel.from_pretrained(source, { ...options, subfolder: "unet" });
  return undefined;
}

const random = (dims: readonly number[]): Tensor => new Generator().manual_seed(0).randn(dims);
const latents = [1, 4, 8, 8];

async function run(step: BenchStep): Promise<Tensor | undefined> {
  switch (step.name) {
    case "engine":
      await getDevice("webgpu", "fp32");
      return undefined;
    case "load":
      return load(step.model);
    case "text encoder": {
      const encoded = await pipeline!.encode_prompt("a fox", { do_classifier_free_guidance: false });
      text = encoded.prompt_embeds;
      return text;
    }
    case "UNet step": {
      // Stable Diffusion XL is measured without its text encoders.
      const added = { text_embeds: random([1, 1280]), time_ids: Tensor.ones([1, 6]) };
      const result =
        text === undefined
          ? await unet!(random(latents), 999, random([1, 77, 2048]), { added_cond_kwargs: added })
          : await unet!(random(latents), 999, text);
      return result.sample;
    }
    case "VAE decoder":
      return (await pipeline!.vae.decode(random(latents))).sample;
    case "dispose":
      await (pipeline ?? unet)!.dispose();
      return undefined;
  }
}

globalThis.onmessage = async ({ data: { step, port } }: MessageEvent<{ step: BenchStep; port: MessagePort }>) => {
  try {
    const start = performance.now();
    const output = await run(step);
    const ms = performance.now() - start;
    const wasm = [...memories].reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
    const mean = output && output.data.reduce((sum, x) => sum + Math.abs(x), 0) / output.size;
    port.postMessage({ ms, wasm, device: memory_allocated(), mean } satisfies StepResult);
  } catch (error) {
    port.postMessage({ error: error instanceof Error ? (error.stack ?? String(error)) : String(error) });
  }
};
