import {
  ControlNetModel,
  type DiffusionPipeline,
  Generator,
  type MultiControlNetModel,
  RawImage,
  StableDiffusionControlNetImg2ImgPipeline,
  StableDiffusionControlNetInpaintPipeline,
  StableDiffusionControlNetPipeline,
  StableDiffusionXLControlNetImg2ImgPipeline,
  StableDiffusionXLControlNetInpaintPipeline,
  StableDiffusionXLControlNetPipeline,
  type Tensor,
} from "@diffusers-web/pipelines";
import { fixturePath } from "./fixtures.ts";

export const on: { readonly device: "wasm" } = { device: "wasm" };
export const sd: string = fixturePath("pipelines/sd1-tiny");
export const xl: string = fixturePath("pipelines/sdxl-tiny");
export const net = (name: string, config: object = {}): Promise<ControlNetModel> =>
  ControlNetModel.from_pretrained(fixturePath(`pipelines/controlnet-tiny/${name}`), { ...on, ...config });
export const seeded = (): Generator => new Generator().manual_seed(0);
export const shown = (pipeline: DiffusionPipeline): string => `${pipeline}`.replace(sd, "PATH");
export const photo: RawImage = new RawImage(
  Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => (i * 7) % 256),
  16,
  16,
  3,
);
export const mask: RawImage = new RawImage(
  Uint8Array.from({ length: 16 * 16 }, (_, i) => (i < 128 ? 0 : 255)),
  16,
  16,
  1,
);

export interface Called {
  (options: object): Promise<{ images: Tensor }>;
  controlnet: ControlNetModel | MultiControlNetModel;
}

/** What a call of each pipeline takes at least. */
export const least: Readonly<Record<string, object>> = {
  text: { image: photo },
  multi: { image: [photo, photo] },
  img2img: { image: photo, control_image: photo },
  "multi img2img": { image: photo, control_image: [photo, photo] },
  inpaint: { image: photo, mask_image: mask, control_image: photo },
  xl: { image: photo },
  "xl img2img": { image: photo, control_image: photo },
  "xl inpaint": { image: photo, mask_image: mask, control_image: photo },
};

/** A pipeline of each class over the tiny checkpoints, and of some with two nets. */
export class ControlNetPipelines {
  one!: ControlNetModel;
  two!: ControlNetModel[];
  text!: StableDiffusionControlNetPipeline;
  readonly made: Record<string, Called> = {};

  async load(): Promise<void> {
    this.one = await net("sd");
    this.two = [this.one, await net("sd", { controlnet_conditioning_channel_order: "bgr" })];
    this.text = await StableDiffusionControlNetPipeline.from_pretrained(sd, { ...on, controlnet: this.one });
    const controlnet = await net("xl");
    const xlText = await StableDiffusionXLControlNetPipeline.from_pretrained(xl, { ...on, controlnet });
    const many = { controlnet: this.two };
    const { text } = this;
    Object.assign(this.made, {
      text,
      multi: await StableDiffusionControlNetPipeline.from_pipe(text, many),
      img2img: await StableDiffusionControlNetImg2ImgPipeline.from_pipe(text),
      "multi img2img": await StableDiffusionControlNetImg2ImgPipeline.from_pipe(text, many),
      inpaint: await StableDiffusionControlNetInpaintPipeline.from_pipe(text),
      xl: xlText,
      "xl img2img": await StableDiffusionXLControlNetImg2ImgPipeline.from_pipe(xlText),
      "xl inpaint": await StableDiffusionXLControlNetInpaintPipeline.from_pipe(xlText),
    });
  }

  async latentsOf(name: string, options: object = {}): Promise<number[]> {
    const call = { prompt: "a cat", num_inference_steps: 3, generator: seeded(), output_type: "latent" };
    return [...(await this.made[name]!({ ...call, ...least[name], ...options })).images.data];
  }

  async dispose(): Promise<void> {
    for (const pipeline of Object.values(this.made)) await (pipeline as unknown as DiffusionPipeline).dispose();
  }
}
