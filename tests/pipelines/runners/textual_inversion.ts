import type { AnyPipeline, CLIPTextModel, StableDiffusionXLPipeline, Tensor } from "@diffusers-web/pipelines";
import { type Tensors, tensorOf } from "../../support/calls.ts";
import { safetensors } from "../../support/safetensors.ts";
import type { FixtureCall, Given } from "./types.ts";

export { load } from "./prompts.ts";

/** Words that are loaded or unloaded. */
export interface WordStep {
  readonly load?: string | readonly string[];
  readonly token?: string | readonly string[] | null;
  readonly form?: "tensor" | "dict";
  readonly key?: string;
  readonly unload?: string | readonly string[] | null;
  readonly encoder?: 1 | 2 | null;
}

type Words = Pick<AnyPipeline, "load_textual_inversion" | "unload_textual_inversion">;
type Parts = Pick<StableDiffusionXLPipeline, "tokenizer" | "text_encoder">;

/** What of a pipeline is meant: of XL the first or the second text encoder. */
export function partsOf(pipeline: object, which: number): Parts {
  const { tokenizer, text_encoder, tokenizer_2, text_encoder_2 } = pipeline as StableDiffusionXLPipeline;
  return which === 1
    ? { tokenizer, text_encoder }
    : { tokenizer: tokenizer_2, text_encoder: text_encoder_2 as unknown as CLIPTextModel };
}

/** The tensors of a source. */
export function sourceOf(name: string, tensors: Tensors): Record<string, Tensor> {
  const prefix = `source/${name}/`;
  const keys = Object.keys(tensors).filter((key) => key.startsWith(prefix));
  return Object.fromEntries(keys.map((key) => [key.slice(prefix.length), tensorOf(tensors[key]!)]));
}

/** A file of float32 tensors. */
export function fileOf(tensors: Readonly<Record<string, Tensor>>, name = "learned_embeds.safetensors"): File {
  const described = Object.entries(tensors).map(([key, { dims, size }]) => [key, ["F32", dims, 4 * size]] as const);
  const data = Object.values(tensors).flatMap((tensor) => [...new Uint8Array(tensor.data.slice().buffer)]);
  return new File([safetensors(Object.fromEntries(described), { data }) as BlobPart], name);
}

export async function takeStep(pipeline: Words, step: WordStep, tensors: Tensors): Promise<void> {
  const parts: Partial<Parts> = step.encoder == null ? {} : partsOf(pipeline, step.encoder);
  if (step.load === undefined) {
    await pipeline.unload_textual_inversion(step.unload, parts.tokenizer, parts.text_encoder);
    return;
  }
  const sources = [step.load].flat().map((one) => {
    const source = sourceOf(one as string, tensors);
    if (step.form === "dict") return source;
    return step.form === "tensor" ? source[step.key ?? Object.keys(source)[0]!]! : fileOf(source);
  });
  const source = Array.isArray(step.load) ? sources : sources[0]!;
  await pipeline.load_textual_inversion(source, { token: step.token, ...parts });
}

export async function renew(pipelines: Readonly<Record<string, AnyPipeline>>): Promise<boolean> {
  for (const pipeline of Object.values(pipelines)) await pipeline.unload_textual_inversion();
  return true;
}

export async function prepare(pipeline: object, call: FixtureCall, { tensors }: Given): Promise<void> {
  for (const step of (call as FixtureCall & { steps: readonly WordStep[] }).steps) {
    await takeStep(pipeline as Words, step, tensors);
  }
}
