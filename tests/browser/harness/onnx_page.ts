import { DiffusionPipeline, Generator, type Source, type SourceFile, type Tensor } from "@diffusers-web/pipelines";

declare global {
  interface Window {
    runExport(layout: "optimum" | "diffusers", device: "auto" | "webgpu"): Promise<ExportResult>;
  }
}

export interface ExportResult {
  readonly device: string;
  readonly reason: string;
  readonly latents: readonly number[];
  /** Of the picture, with values from 0 to 255. */
  readonly pixels: readonly number[];
}

/** An export, with the tokenizer and scheduler of the original. */
function exportSource(layout: string): Source {
  return {
    name: layout,
    open: async (path): Promise<SourceFile | undefined> => {
      const folder = /^(tokenizer|scheduler)\//.test(path) ? "pipelines/sd1-tiny" : `onnx/${layout}`;
      const response = await fetch(`/tests/fixtures/${folder}/${path}`);
      if (!response.ok) return undefined;
      const bytes = new Uint8Array(await response.arrayBuffer());
      return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => {} };
    },
  };
}

window.runExport = async (layout, device) => {
  const pipeline = await DiffusionPipeline.from_pretrained(exportSource(layout), { device });
  let latents: Tensor | undefined;
  const { images } = await pipeline("a photo of a red fox!", {
    num_inference_steps: 1,
    height: 32,
    width: 32,
    generator: new Generator().manual_seed(0),
    callback_on_step_end: (_, __, ___, tensors) => {
      latents = tensors["latents"];
    },
  });
  const { reason } = pipeline.unet.device_info;
  const result = { device: pipeline.device, reason, latents: [...latents!.data], pixels: [...images[0]!.data] };
  await pipeline.dispose();
  return result;
};
