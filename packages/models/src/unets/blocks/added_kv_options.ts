import { ValueError } from "@diffusers-web/core";
import type { AddedKVAttentionOptions } from "../../layers/added_kv_attention.ts";
import type { BlockOptions } from "./types.ts";

/**
 * What a block's options mean for its attention over text and pixels.
 *
 * @throws ValueError for heads that do not fill the channels, which Diffusers cannot run either.
 */
export function addedKVOptions({
  attentionHeadDim,
  out,
  resnet,
  transformer,
}: Pick<BlockOptions, "attentionHeadDim" | "out" | "resnet" | "transformer">): AddedKVAttentionOptions {
  const headDim = attentionHeadDim ?? out;
  if (out % headDim !== 0) {
    throw new ValueError(
      `A block of ${out} channels with attention over text and pixels does not divide into heads of size ` +
        `\`attention_head_dim\` ${headDim}.`,
      { field: "attention_head_dim", found: String(headDim), expected: `a divisor of ${out}` },
    );
  }
  const { context, onlyCrossAttention, crossAttentionNorm = null, conditions } = transformer!;
  // As in Diffusers: the text's mask is read only where there is no other.
  const mask = conditions?.mask ?? conditions?.contextMask;
  const maskField = conditions?.mask === undefined ? "encoder_attention_mask" : "attention_mask";
  return { headDim, groups: resnet.groups, maskField, context, onlyCrossAttention, crossAttentionNorm, mask };
}
