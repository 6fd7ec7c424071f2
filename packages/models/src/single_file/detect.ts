import { UnsupportedModelError } from "@diffusers-web/core";
import type { WeightSource } from "../graph/types.ts";

/** The kinds of checkpoints in one file that are told apart, named as in Diffusers. */
export type SingleFileKind =
  | "v1"
  | "v2"
  | "inpainting"
  | "inpainting_v2"
  | "instruct-pix2pix"
  | "upscale"
  | "xl_base"
  | "xl_refiner"
  | "xl_inpaint"
  | "playground-v2-5";

type Shapes = Pick<WeightSource, "file" | "names" | "shape">;

const input = "model.diffusion_model.input_blocks.0.0.weight";
const text2 = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight";
const openClip = (embedder: number): string =>
  `conditioner.embedders.${embedder}.model.transformer.resblocks.9.mlp.c_proj.bias`;

/** In Diffusers' order: the first that fits. */
const kinds: readonly (readonly [kind: SingleFileKind, fits: (is: Telltales) => boolean])[] = [
  ["inpainting_v2", (is) => is.inputs === 9 && is.textWidth === 1024],
  ["xl_inpaint", (is) => is.inputs === 9 && is.has(openClip(1))],
  ["inpainting", (is) => is.inputs === 9],
  ["v2", (is) => is.textWidth === 1024],
  ["playground-v2-5", (is) => is.has("edm_mean")],
  ["xl_base", (is) => is.has(openClip(1))],
  ["xl_refiner", (is) => is.has(openClip(0))],
  ["upscale", (is) => is.has("model.diffusion_model.input_blocks.10.0.skip_connection.bias")],
  ["instruct-pix2pix", (is) => is.inputs === 8],
];

interface Telltales {
  has(name: string): boolean;
  /** Channels that the UNet takes. */
  readonly inputs: number | undefined;
  /** Channels of the text that it looks at. */
  readonly textWidth: number | undefined;
}

/** Files that are no checkpoint of this layout: what they have, and what they are. */
const others: readonly (readonly [name: RegExp, is: string])[] = [
  [/^lora_(unet|te\d?)_|\.lora_(A|B|up|down)\./, "a LoRA, which changes a checkpoint and is none itself"],
  [/^(emb_params|string_to_param)/, "a textual inversion, which adds to a checkpoint and is none itself"],
  [/^control_model\.|^controlnet_cond_embedding\.|^input_hint_block\./, "a ControlNet"],
  [/(^|\.)motion_modules\./, "an AnimateDiff motion module"],
  [/(^|\.)joint_blocks\.\d+\./, "Stable Diffusion 3"],
  [/(^|\.)(double_blocks\.\d+\.img_attn|single_stream_modulation|early_stream_modulations)\./, "a FLUX model"],
  [/(^|\.)distilled_guidance_layer\./, "Chroma"],
  [/^clip_txt_mapper\.|^down_blocks\.1\.0\.channelwise\./, "Stable Cascade"],
  [/(^|\.)double_layers\.\d+\.attn\.w[12]q\./, "AuraFlow"],
  [/(^|\.)(patchify_proj|head\.modulation|patch_embedding\.|txt_in\.|cap_embedder\.)/, "a model of another design"],
];

const unet = /^model\.diffusion_model\.input_blocks\./;
const known = [
  /^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|mid|conv_in)/,
  /^(cond_stage_model|conditioner\.embedders\.\d+)\./,
  // In Diffusers' own layout, or transformers'.
  /^(down_blocks|up_blocks|mid_block|text_model|embeddings|encoder\.layers)\./,
];

/**
 * What kind of checkpoint a file is, from the names and shapes of its tensors.
 *
 * @throws UnsupportedModelError for what is none of Stable Diffusion 1.x, 2.x or XL, saying what it seems to be.
 * @see Diffusers `infer_diffusers_model_type`
 */
export function detectKind(weights: Shapes): SingleFileKind {
  const names = [...weights.names()];
  const is: Telltales = {
    has: (name) => weights.shape(name) !== undefined,
    inputs: weights.shape(input)?.[1],
    textWidth: weights.shape(text2)?.at(-1),
  };
  const kind = kinds.find(([, fits]) => fits(is))?.[0];
  // What else may be beside a UNet is named as it is loaded.
  if (kind !== undefined || names.some((name) => unet.test(name))) return kind ?? "v1";
  for (const [pattern, what] of others) {
    const name = names.find((one) => pattern.test(one));
    if (name !== undefined) throw unsupported(weights.file, name, `it seems to be ${what}`);
  }
  if (names.some((name) => known.some((pattern) => pattern.test(name)))) return "v1";
  throw unsupported(weights.file, names[0] ?? "no tensor", "it is no model that is known");
}

function unsupported(file: string, tensor: string, what: string): UnsupportedModelError {
  const expected = "a checkpoint of Stable Diffusion 1.x, 2.x or XL";
  return new UnsupportedModelError(`${file} has ${tensor}: ${what}. Expected ${expected}.`, {
    file,
    tensors: [tensor],
    found: what,
    expected,
  });
}
