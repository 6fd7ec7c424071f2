import type { KAttentionOptions } from "../../layers/k_attention_block.ts";
import type { BlockOptions } from "./types.ts";

/** What a block's options mean for its attention. */
export function kAttentionOptions(options: BlockOptions, addSelfAttention: boolean): KAttentionOptions {
  const { attentionHeadDim, out, transformer } = options;
  const { context, conditions } = transformer ?? {};
  const masks = { mask: conditions?.mask, contextMask: conditions?.contextMask };
  return { headDim: attentionHeadDim ?? out, addSelfAttention, context, ...masks };
}
