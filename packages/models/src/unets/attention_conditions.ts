import { checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import type { AttentionConditions } from "../layers/transformer_2d.ts";
import { type GligenInputs, PositionNet } from "./gligen.ts";
import type { Dims } from "./inputs.ts";
import { type IPAdapterMasks, IPAdapters } from "./ip_adapters.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What attentions may be told in a call of a UNet2DConditionModel. */
export interface AttentionOptionsOfCall {
  /**
   * Which pixels self-attention sees: 1 for those it does, 0 for those it does not, `[batch, tokens]`. As in Diffusers it
   * holds for every self-attention, so that they all need as many tokens: a UNet with transformers of one size only.
   */
  readonly attention_mask?: Tensor<DataType> | undefined;
  /** Which tokens of the text are seen: 1 for those that are, 0 for those that are not, `[batch, length]`. */
  readonly encoder_attention_mask?: Tensor<DataType> | undefined;
  readonly cross_attention_kwargs?: CrossAttentionKwargs | null | undefined;
}

/** The names of {@link AttentionOptionsOfCall}. */
export const attentionOptionNames = ["attention_mask", "encoder_attention_mask", "cross_attention_kwargs"] as const;

/** What attention layers are told, in Diffusers' `cross_attention_kwargs`. */
export interface CrossAttentionKwargs {
  /** For `attention_type` "gated" and "gated-text-image": what stands where. Absent: nothing is grounded. */
  readonly gligen?: GligenInputs | undefined;
  /**
   * For IP-Adapters: where in the picture each of an adapter's pictures acts, a tensor `[1, images, height, width]` for
   * each adapter, or null. One tensor `[adapters, images, height, width]` stands for all.
   */
  readonly ip_adapter_masks?: IPAdapterMasks | undefined;
  /** A factor of the active LoRA adapters in this call, beside their own weights. Default 1. */
  readonly scale?: number | null | undefined;
}

const className = "UNet2DConditionModel";

/** @throws TypeError for a name that is not known, ValueError for a scale that is no number. */
export function checkCrossAttentionKwargs(user: string, given: CrossAttentionKwargs | null | undefined): void {
  const field = "cross_attention_kwargs";
  checkOptions(`${user}: ${field}`, given ?? {}, ["gligen", "ip_adapter_masks", "scale"]);
  const scale = given?.scale ?? 1;
  if (Number.isFinite(scale)) return;
  throw new ValueError(`${user}: \`${field}.scale\` is ${scale}, expected a number.`, {
    className: user,
    field: `${field}.scale`,
    found: String(scale),
    expected: "a number",
  });
}

/** What the attentions of a UNet2DConditionModel are told besides the text: masks, grounded objects, pictures. */
export class AttentionConditioning {
  readonly adapters: IPAdapters;
  private readonly positionNet: PositionNet;

  constructor(config: Readonly<UNet2DConditionModelConfig>) {
    this.adapters = new IPAdapters(config);
    this.positionNet = new PositionNet(config);
  }

  /**
   * The graph's inputs for one call, by name.
   *
   * @param embeds `added_cond_kwargs.image_embeds`, where it is for IP-Adapters
   */
  feeds(
    options: AttentionOptionsOfCall,
    embeds: Tensor | readonly Tensor[] | undefined,
    sample: Tensor,
  ): Record<string, Tensor> {
    const batch = sample.dims[0]!;
    checkCrossAttentionKwargs(className, options.cross_attention_kwargs);
    const { gligen, ip_adapter_masks } = options.cross_attention_kwargs ?? {};
    return {
      ...maskFeeds(options, batch, className),
      ...this.positionNet.feeds(gligen, batch),
      ...this.adapters.feeds(embeds, ip_adapter_masks, sample),
    };
  }

  /** The dims of the inputs whose layers are in the model's own checkpoint, for a batch of one. */
  inputDims(): Record<string, readonly number[]> {
    return this.positionNet.inputDims();
  }

  /** Emits what the attentions are told, from the inputs that `dims` has. */
  emit(g: GraphBuilder, dims: Dims): AttentionConditions {
    const mask = (name: string): Value | undefined => dims[name] && g.input(name, dims[name]);
    return {
      mask: mask("attention_mask"),
      contextMask: mask("encoder_attention_mask"),
      objects: this.positionNet.emit(g, dims),
      images: this.adapters.emit(g, dims),
    };
  }
}

/** Masks as what is added to the scores: 0 for what is seen, -10000 for what is not. */
export function maskFeeds(
  options: Pick<AttentionOptionsOfCall, "attention_mask" | "encoder_attention_mask">,
  batch: number,
  className: string,
): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const field of ["attention_mask", "encoder_attention_mask"] as const) {
    const mask: unknown = options[field];
    if (mask === undefined || mask === null) continue;
    if (!(mask instanceof Tensor) || mask.dims.length !== 2 || mask.dims[0] !== batch || mask.size === 0) {
      const found = mask instanceof Tensor ? `[${mask.dims}]` : String(mask);
      throw new ValueError(`${className}: \`${field}\` is ${found}, but [${batch}, tokens] is expected.`, {
        className,
        field,
        found,
        expected: `[${batch}, tokens]`,
      });
    }
    const data = Float32Array.from(mask.to("float32").data as Float32Array, (kept) => Math.fround(1 - kept) * -10000);
    feeds[field] = new Tensor("float32", data, [batch, 1, 1, mask.dims[1]!]);
  }
  return feeds;
}
