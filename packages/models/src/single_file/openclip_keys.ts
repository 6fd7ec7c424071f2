import { transpose } from "../weight_transforms.ts";
import { byRules, type KeyMap, third } from "./key_map.ts";

/** What of a text encoder's config its layout depends on. */
export interface OpenClipLayout {
  readonly num_hidden_layers: number;
  /** Whether the class has the projection: its tensors are below `text_model.` then. */
  readonly with_projection: boolean;
}

const parts: Readonly<Record<string, string>> = {
  ln_1: "layer_norm1",
  ln_2: "layer_norm2",
  "attn.out_proj": "self_attn.out_proj",
  "mlp.c_fc": "mlp.fc1",
  "mlp.c_proj": "mlp.fc2",
};

/**
 * The text encoder of OpenCLIP, in Stable Diffusion 2.x and as the second one of XL: q, k and v are one layer, and the
 * projection is kept the other way round. Layers that the config does not count are not used (2.x stops before the last).
 *
 * @see Diffusers `convert_open_clip_checkpoint`
 */
export function openClipKeys({ num_hidden_layers, with_projection }: OpenClipLayout): KeyMap {
  const prefix = with_projection ? "text_model." : "";
  const layer = (i: string): string => `${prefix}encoder.layers.${i}`;
  const rules = byRules([
    [/^positional_embedding$/, `${prefix}embeddings.position_embedding.weight`],
    [/^token_embedding\.weight$/, `${prefix}embeddings.token_embedding.weight`],
    [/^ln_final\./, `${prefix}final_layer_norm.`],
    [
      /^transformer\.resblocks\.(\d+)\.(ln_1|ln_2|attn\.out_proj|mlp\.c_fc|mlp\.c_proj)\.(weight|bias)$/,
      (i, part, which) => `${layer(i!)}.${parts[part!]}.${which}`,
    ],
    ...(with_projection ? [[/^text_projection$/, "text_projection.weight", transpose] as const] : []),
  ]);
  return (name) => {
    if (/^(logit_scale|attn_mask)$/.test(name)) return [];
    if (name === "text_projection" && !with_projection) return [];
    const [, i, rest] = /^transformer\.resblocks\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (i !== undefined && Number(i) >= num_hidden_layers) return [];
    const [, which] = /^attn\.in_proj_(weight|bias)$/.exec(rest ?? "") ?? [];
    if (which === undefined) return rules(name);
    return ["q", "k", "v"].map((one, at) => ({
      name: `${layer(i!)}.self_attn.${one}_proj.${which}`,
      as: third(at),
    }));
  };
}
