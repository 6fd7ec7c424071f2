import type { LoraComponent } from "./lora_conversion_utils.ts";

/** Names as kohya's scripts write them: a layer's path with `_` for each dot. */
const prefixes: readonly string[] = ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"];

/** Whether a tensor is called as kohya's scripts call it. */
export function isKohya(name: string): boolean {
  return prefixes.some((prefix) => name.startsWith(prefix));
}

/** The original code's blocks; its first convolution stands before them. */
const sgm =
  /^lora_unet_(?:(middle_block)_([0-2])|(input_blocks)_(?!0_)(\d+)_([0-2])|(output_blocks)_(\d+)_([0-2]))_(.*)$/;
const innerBlocks = ["resnets", "attentions", "upsamplers"];

/**
 * Names in the block numbering of the original code (`input_blocks_4_1_...`) as Diffusers numbers them, in the order of the
 * file. Where both are there, those in the original numbering are left out, as in Diffusers.
 *
 * @param layers_per_block the UNet's
 * @returns the tensors of the file by their new names
 * @see Diffusers `_maybe_map_sgm_blocks_to_diffusers`
 */
export function sgmToDiffusers(names: readonly string[], layers_per_block: number): Map<string, string> {
  const isOriginal = (name: string): boolean => /input_blocks|middle_block|output_blocks/.test(name);
  const isOurs = (name: string): boolean => /down_blocks|mid_block|up_blocks/.test(name);
  const hasBoth = names.some(isOriginal) && names.some(isOurs);
  const kept = hasBoth ? names.filter((name) => !isOriginal(name)) : names;
  return new Map(kept.map((name) => [mapBlock(name, layers_per_block + 1), name]));
}

function mapBlock(name: string, layers: number): string {
  const match = sgm.exec(name);
  if (match === null) return name;
  const [middle, middleNumber, input, inputNumber, inputInner, , outputNumber, outputInner, inside = ""] =
    match.slice(1);
  if (middle !== undefined) {
    const block = ["resnets_0", "attentions_0", "resnets_1"][Number(middleNumber)]!;
    return `lora_unet_mid_block_${block}_${inside}`;
  }
  const isDown = input !== undefined;
  const at = isDown ? Number(inputNumber) - 1 : Number(outputNumber);
  const block = `lora_unet_${isDown ? "down" : "up"}_blocks_${Math.floor(at / layers)}`;
  if (isDown && /^op\b/.test(inside)) return `${block}_downsamplers_0_${inside}`;
  // It follows the attention, and where there is none the resnet.
  if (!isDown && /^conv\b/.test(inside)) return `${block}_upsamplers_0_${inside}`;
  return `${block}_${innerBlocks[Number(isDown ? inputInner : outputInner)]}_${at % layers}_${inside}`;
}

/**
 * What Diffusers makes of kohya's name of a tensor, under its component; undefined for a tensor that is no LoRA's.
 *
 * @see Diffusers `_convert_non_diffusers_lora_to_diffusers`
 */
export function diffusersName(name: string): { component: LoraComponent; name: string } | undefined {
  const [, layer, which] = /^(\w+)\.(lora_down\.weight|lora_up\.weight)$/.exec(name) ?? [];
  if (layer === undefined || which === undefined) return undefined;
  const dotted = (prefix: string): string => `${layer.slice(prefix.length)}_${which}`.replaceAll("_", ".");
  if (layer.startsWith("lora_unet_")) {
    // A block that the original code does not have.
    if (/^lora_unet_(input_blocks_(?!0_0$)|middle_block_|output_blocks_)/.test(layer)) return undefined;
    return { component: "unet", name: unetName(dotted("lora_unet_")) };
  }
  const component = layer.startsWith("lora_te2_") ? "text_encoder_2" : "text_encoder";
  return { component, name: textEncoderName(dotted(prefixes.find((prefix) => layer.startsWith(prefix))!)) };
}

/** Parts of a UNet's path whose own `_` became dots, in the order in which they are put right. */
const unetParts: readonly (readonly [string, string])[] = [
  ["input.blocks.0.0", "conv_in"],
  ["out.2", "conv_out"],
  ["down.blocks", "down_blocks"],
  ["mid.block", "mid_block"],
  ["up.blocks", "up_blocks"],
  ["transformer.blocks", "transformer_blocks"],
  ["to.q.lora", "to_q_lora"],
  ["to.k.lora", "to_k_lora"],
  ["to.v.lora", "to_v_lora"],
  ["to.out.0.lora", "to_out_lora"],
  ["proj.in", "proj_in"],
  ["proj.out", "proj_out"],
  ["emb.layers", "time_emb_proj"],
  ["conv.in", "conv_in"],
  ["conv.out", "conv_out"],
  ["time.embed.0", "time_embedding.linear_1"],
  ["time.embed.2", "time_embedding.linear_2"],
  ["label.emb.0.0", "add_embedding.linear_1"],
  ["label.emb.0.2", "add_embedding.linear_2"],
  ["time.embedding.linear.1", "time_embedding.linear_1"],
  ["time.embedding.linear.2", "time_embedding.linear_2"],
  // Diffusers does not know these two, and loses them.
  ["add.embedding.linear.1", "add_embedding.linear_1"],
  ["add.embedding.linear.2", "add_embedding.linear_2"],
];

/** @see Diffusers `_convert_unet_lora_key` */
function unetName(dotted: string): string {
  let name = unetParts.reduce((path, [from, to]) => path.replaceAll(from, to), dotted);
  // What the original code's resnets are made of.
  if (name.includes("emb") && !name.includes("time.emb.proj")) name = name.replace(/\.\d+(?=\D*$)/, "");
  if (name.includes(".in.")) name = name.replaceAll("in.layers.2", "conv1");
  if (name.includes(".out.")) name = name.replaceAll("out.layers.3", "conv2");
  if (name.includes("downsamplers") || name.includes("upsamplers")) name = name.replaceAll("op", "conv");
  name = name.replaceAll("skip.connection", "conv_shortcut");
  // And how LyCORIS names Diffusers' own.
  return name.replaceAll("time.emb.proj", "time_emb_proj").replaceAll("conv.shortcut", "conv_shortcut");
}

/** @see Diffusers `_convert_text_encoder_lora_key` */
function textEncoderName(dotted: string): string {
  const name = dotted.replaceAll("text.model", "text_model").replaceAll("self.attn", "self_attn");
  const attention = name.replace(/\b(q|k|v|out)\.proj\.lora/, "to_$1_lora");
  return attention.replaceAll("text.projection", "text_projection");
}
