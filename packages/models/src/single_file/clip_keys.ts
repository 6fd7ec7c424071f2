import type { KeyMap } from "./key_map.ts";

/**
 * CLIPTextModel as transformers saves it, which the original Stable Diffusion 1.x and the first encoder of XL contain.
 *
 * @see Diffusers `convert_ldm_clip_checkpoint`
 */
export const clipKeys: KeyMap = (name) => {
  if (name.endsWith(".position_ids")) return [];
  const own = name.replace(/^text_model\./, "");
  return /^(embeddings|encoder|final_layer_norm)\./.test(own) ? [{ name: own }] : undefined;
};
