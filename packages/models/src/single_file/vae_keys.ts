import { squeeze } from "../weight_transforms.ts";
import { byRules, type KeyMap } from "./key_map.ts";

/** What of a VAE's config its layout depends on. */
export interface VaeLayout {
  readonly up_block_types: readonly string[];
}

const attentionParts: Readonly<Record<string, string>> = { q: "to_q", k: "to_k", v: "to_v", proj_out: "to_out.0" };

/**
 * AutoencoderKL: the original counts the decoder's levels from the largest picture down, and its attention is made of 1x1
 * convolutions.
 *
 * @see Diffusers `convert_ldm_vae_checkpoint`
 */
export function vaeKeys({ up_block_types }: VaeLayout): KeyMap {
  const up = (level: string): string => `decoder.up_blocks.${up_block_types.length - 1 - Number(level)}`;
  const part = (name: string): string => name.replace("nin_shortcut", "conv_shortcut");
  const rules = byRules([
    [/^((?:encoder|decoder)\.conv_(?:in|out)|quant_conv|post_quant_conv)\.(weight|bias)$/, "$1.$2"],
    [/^(encoder|decoder)\.norm_out\./, "$1.conv_norm_out."],
    [
      /^encoder\.down\.(\d+)\.block\.(\d+)\.(.+)$/,
      (level, i, rest) => `encoder.down_blocks.${level}.resnets.${i}.${part(rest!)}`,
    ],
    [/^encoder\.down\.(\d+)\.downsample\.conv\./, "encoder.down_blocks.$1.downsamplers.0.conv."],
    [/^decoder\.up\.(\d+)\.block\.(\d+)\.(.+)$/, (level, i, rest) => `${up(level!)}.resnets.${i}.${part(rest!)}`],
    [/^decoder\.up\.(\d+)\.upsample\.conv\.(.+)$/, (level, rest) => `${up(level!)}.upsamplers.0.conv.${rest}`],
    [
      /^(encoder|decoder)\.mid\.block_([12])\.(.+)$/,
      (side, i, rest) => `${side}.mid_block.resnets.${Number(i) - 1}.${part(rest!)}`,
    ],
    [/^(encoder|decoder)\.mid\.attn_1\.norm\./, "$1.mid_block.attentions.0.group_norm."],
    [
      /^(encoder|decoder)\.mid\.attn_1\.(q|k|v|proj_out)\.weight$/,
      (side, which) => `${side}.mid_block.attentions.0.${attentionParts[which!]}.weight`,
      squeeze,
    ],
    [
      /^(encoder|decoder)\.mid\.attn_1\.(q|k|v|proj_out)\.bias$/,
      (side, which) => `${side}.mid_block.attentions.0.${attentionParts[which!]}.bias`,
    ],
  ]);
  // What its training needed.
  return (name) => (/^(loss|model_ema)\./.test(name) ? [] : rules(name));
}
