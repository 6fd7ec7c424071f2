import { clipKeys } from "./clip_keys.ts";
import type { SingleFileConfigs } from "./configs/index.ts";
import type { KeyMap } from "./key_map.ts";
import { openClipKeys } from "./openclip_keys.ts";
import { type UNetLayout, unetKeys } from "./unet_keys.ts";
import { type VaeLayout, vaeKeys } from "./vae_keys.ts";

/** One of the ways in which a component may be in a file. */
export interface Layout {
  readonly prefix: string;
  /** Tensors of which there is at least one, without the prefix. */
  readonly telltale: RegExp;
  /** @param config the model's, checked */
  readonly keys: (config: never) => KeyMap;
}

/** A model that a checkpoint in one file may have. */
export interface SingleFileComponent {
  /** Where its config is in the Diffusers layout. */
  readonly folder: Exclude<keyof SingleFileConfigs, "scheduler">;
  /** The first that is there is taken. */
  readonly layouts: readonly Layout[];
}

/** Diffusers' own names. */
const same = (): KeyMap => (name) => [{ name }];
const clip = (): KeyMap => clipKeys;
const openClip =
  (with_projection: boolean) =>
  ({ num_hidden_layers }: { num_hidden_layers: number }): KeyMap =>
    openClipKeys({ num_hidden_layers, with_projection });

const vae = { telltale: /^(encoder|decoder)\.(down|up|mid)\./, keys: (config: VaeLayout) => vaeKeys(config) };
const resblocks = /^transformer\.resblocks\./;
const embeddings = /^(text_model\.)?embeddings\./;

/** The models that are read from single files, by class. */
export const singleFileComponents: Readonly<Record<string, SingleFileComponent>> = {
  UNet2DConditionModel: {
    folder: "unet",
    layouts: [
      {
        prefix: "model.diffusion_model.",
        telltale: /^input_blocks\./,
        keys: (config: UNetLayout) => unetKeys(config),
      },
      { prefix: "", telltale: /^down_blocks\./, keys: same },
    ],
  },
  AutoencoderKL: {
    folder: "vae",
    layouts: [
      { prefix: "vae.", ...vae },
      { prefix: "first_stage_model.", ...vae },
      { prefix: "", ...vae },
      { prefix: "", telltale: /^(encoder\.down|decoder\.up)_blocks\./, keys: same },
    ],
  },
  CLIPTextModel: {
    folder: "text_encoder",
    layouts: [
      { prefix: "cond_stage_model.transformer.", telltale: embeddings, keys: clip },
      { prefix: "conditioner.embedders.0.transformer.", telltale: embeddings, keys: clip },
      { prefix: "cond_stage_model.model.", telltale: resblocks, keys: openClip(false) },
      { prefix: "", telltale: embeddings, keys: clip },
    ],
  },
  CLIPTextModelWithProjection: {
    folder: "text_encoder_2",
    layouts: [
      { prefix: "conditioner.embedders.1.model.", telltale: resblocks, keys: openClip(true) },
      { prefix: "conditioner.embedders.0.model.", telltale: resblocks, keys: openClip(true) },
    ],
  },
};

const prefixes = Object.values(singleFileComponents)
  .flatMap(({ layouts }) => layouts.map(({ prefix }) => prefix))
  .filter((prefix) => prefix !== "");

/** What trainers leave in a file, and no pipeline reads: averages of the weights, the noise schedule, counters. */
const leftovers =
  /^(model_ema\.|(sqrt_|log_)?(one_minus_)?alphas_|sqrt_recip|betas$|posterior_|lvlb_weights$|logvar$|sigmas$|denoiser\.|global_step$|epoch$|(cond_stage_model|conditioner\.embedders\.\d+)\.logit_scale$)/;

/** Tensors that belong to no model that is read from single files. None where the file is one model's alone. */
export function strangers(names: Iterable<string>): string[] {
  const all = [...names];
  if (!all.some((name) => prefixes.some((prefix) => name.startsWith(prefix)))) return [];
  return all.filter((name) => !prefixes.some((prefix) => name.startsWith(prefix)) && !leftovers.test(name));
}
