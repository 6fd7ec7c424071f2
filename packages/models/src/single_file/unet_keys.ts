import { byRules, type KeyMap } from "./key_map.ts";

/** What of a UNet's config its layout depends on. */
export interface UNetLayout {
  readonly layers_per_block: number;
  readonly addition_embed_type: string | null;
}

const resnetParts: Readonly<Record<string, string>> = {
  "in_layers.0": "norm1",
  "in_layers.2": "conv1",
  "emb_layers.1": "time_emb_proj",
  "out_layers.0": "norm2",
  "out_layers.3": "conv2",
  skip_connection: "conv_shortcut",
};

/**
 * UNet2DConditionModel: the original numbers its layers through. The first of `input_blocks` is the first convolution;
 * then, level by level, come the residual blocks (`.0`) with their transformers (`.1`), and what halves the size. Inside
 * of transformers both layouts have the same names.
 *
 * @see Diffusers `convert_ldm_unet_checkpoint`
 */
export function unetKeys({ layers_per_block, addition_embed_type }: UNetLayout): KeyMap {
  const each = layers_per_block + 1;
  const down = (i: string, kind: string): string =>
    `down_blocks.${Math.floor((Number(i) - 1) / each)}.${kind}.${(Number(i) - 1) % each}`;
  const up = (i: string, kind: string): string =>
    `up_blocks.${Math.floor(Number(i) / each)}.${kind}.${Number(i) % each}`;
  const label = addition_embed_type === "text_time" ? "add_embedding" : "class_embedding";
  const resnet = /(in_layers\.0|in_layers\.2|emb_layers\.1|out_layers\.0|out_layers\.3|skip_connection)/.source;
  const end = /\.(weight|bias)$/.source;

  return byRules([
    [/^time_embed\.0\./, "time_embedding.linear_1."],
    [/^time_embed\.2\./, "time_embedding.linear_2."],
    [/^label_emb\.0\.0\./, `${label}.linear_1.`],
    [/^label_emb\.0\.2\./, `${label}.linear_2.`],
    [/^label_emb\.weight$/, "class_embedding.weight"],
    [/^input_blocks\.0\.0\./, "conv_in."],
    [/^out\.0\./, "conv_norm_out."],
    [/^out\.2\./, "conv_out."],

    [
      new RegExp(`^input_blocks\\.(\\d+)\\.0\\.${resnet}${end}`),
      (i, part, which) => `${down(i!, "resnets")}.${resnetParts[part!]}.${which}`,
    ],
    [/^input_blocks\.(\d+)\.1\.(.+)$/, (i, rest) => `${down(i!, "attentions")}.${rest}`],
    [
      /^input_blocks\.(\d+)\.0\.op\.(.+)$/,
      (i, which) => `down_blocks.${Math.floor((Number(i) - 1) / each)}.downsamplers.0.conv.${which}`,
    ],

    [
      new RegExp(`^middle_block\\.([02])\\.${resnet}${end}`),
      (i, part, which) => `mid_block.resnets.${Number(i) / 2}.${resnetParts[part!]}.${which}`,
    ],
    [/^middle_block\.1\./, "mid_block.attentions.0."],

    [
      new RegExp(`^output_blocks\\.(\\d+)\\.0\\.${resnet}${end}`),
      (i, part, which) => `${up(i!, "resnets")}.${resnetParts[part!]}.${which}`,
    ],
    [
      // Behind the transformer, or in its place where the level has none.
      /^output_blocks\.(\d+)\.[12]\.conv\.(.+)$/,
      (i, which) => `up_blocks.${Math.floor(Number(i) / each)}.upsamplers.0.conv.${which}`,
    ],
    [/^output_blocks\.(\d+)\.1\.(.+)$/, (i, rest) => `${up(i!, "attentions")}.${rest}`],
  ]);
}
