import type { RawImage, Tensor } from "@diffusers-web/core";
import type { Prompt } from "./prompt.ts";
import type { ImageInput } from "./stable_diffusion/image_latents.ts";

/**
 * What a pipeline's pictures come as: "image" (default; "pil" is the same): `RawImage[]`; "tensor" ("pt" is the same):
 * `[batch, channels, height, width]` in 0..1; "latent": what the denoising ended with.
 */
export type OutputType = "image" | "pil" | "tensor" | "pt" | "latent";

/** What a pipeline returns. */
export interface ImagePipelineOutput<Images = RawImage[]> {
  readonly images: Images;
}

/** What a text-to-image pipeline returns. */
export interface StableDiffusionPipelineOutput<Images = RawImage[]> extends ImagePipelineOutput<Images> {
  /** For each picture, whether the safety checker blackened it; null without a safety checker. */
  readonly nsfw_content_detected: boolean[] | null;
}

interface ToImages {
  readonly output_type?: "image" | "pil";
}

interface ToTensor {
  readonly output_type: "tensor" | "pt" | "latent";
}

/** A pipeline called without a prompt. What `images` is follows from `output_type`. */
export interface PipelineCall<Options extends { readonly output_type?: OutputType }> {
  (options?: Options & ToImages): Promise<ImagePipelineOutput>;
  (options: Options & ToTensor): Promise<ImagePipelineOutput<Tensor>>;
  (options: Options): Promise<ImagePipelineOutput<RawImage[] | Tensor>>;
}

/** A pipeline called with a prompt, first or among the options. What `images` is follows from `output_type`. */
export interface PromptPipelineCall<Options extends { readonly output_type?: OutputType }> {
  (prompt: Prompt | null, options?: Options & ToImages): Promise<StableDiffusionPipelineOutput>;
  (prompt: Prompt | null, options: Options & ToTensor): Promise<StableDiffusionPipelineOutput<Tensor>>;
  (prompt: Prompt | null, options: Options): Promise<StableDiffusionPipelineOutput<RawImage[] | Tensor>>;
  (options?: Options & ToImages): Promise<StableDiffusionPipelineOutput>;
  (options: Options & ToTensor): Promise<StableDiffusionPipelineOutput<Tensor>>;
  (options: Options): Promise<StableDiffusionPipelineOutput<RawImage[] | Tensor>>;
}

/** A pipeline called with a picture, first or among the options. What `images` is follows from `output_type`. */
export interface PicturePipelineCall<Options extends { readonly output_type?: OutputType }> {
  (image: ImageInput, options?: Options & ToImages): Promise<StableDiffusionPipelineOutput>;
  (image: ImageInput, options: Options & ToTensor): Promise<StableDiffusionPipelineOutput<Tensor>>;
  (image: ImageInput, options: Options): Promise<StableDiffusionPipelineOutput<RawImage[] | Tensor>>;
  (options: Options & ToImages): Promise<StableDiffusionPipelineOutput>;
  (options: Options & ToTensor): Promise<StableDiffusionPipelineOutput<Tensor>>;
  (options: Options): Promise<StableDiffusionPipelineOutput<RawImage[] | Tensor>>;
}

/** A pipeline called with a prompt that does not check its pictures. What `images` is follows from `output_type`. */
export interface PromptImageCall<Options extends { readonly output_type?: OutputType }> {
  (prompt: Prompt | null, options?: Options & ToImages): Promise<ImagePipelineOutput>;
  (prompt: Prompt | null, options: Options & ToTensor): Promise<ImagePipelineOutput<Tensor>>;
  (prompt: Prompt | null, options: Options): Promise<ImagePipelineOutput<RawImage[] | Tensor>>;
  (options?: Options & ToImages): Promise<ImagePipelineOutput>;
  (options: Options & ToTensor): Promise<ImagePipelineOutput<Tensor>>;
  (options: Options): Promise<ImagePipelineOutput<RawImage[] | Tensor>>;
}
