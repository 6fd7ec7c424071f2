import { Tensor, UnsupportedModelError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import { GraphBuilder, type Value } from "../graph/builder.ts";
import type { Target, WeightSource } from "../graph/types.ts";
import { scaledDotProductAttention } from "../layers/attention.ts";
import { type IPAdapterInput, type IPImageProjection, ipImageProjection } from "../layers/ip_image_projection.ts";
import { add, type Tokens } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import type { AttentionConditions, HeadOptions } from "../layers/transformer_2d.ts";
import { blockName } from "./blocks/index.ts";
import { type Transformer, transformersOf } from "./cross_attentions.ts";
import type { Dims } from "./inputs.ts";
import { downsampleMask } from "./ip_adapter_masks.ts";
import { expandIPScale, type IPScale, type IPScaleConfig } from "./ip_adapter_scales.ts";
import { mapSizes } from "./map_sizes.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** Masks that say where in the picture each adapter's pictures act: see {@link CrossAttentionKwargs}. */
export type IPAdapterMasks = Tensor | readonly (Tensor | null)[];

interface Adapter {
  readonly weights: WeightSource;
  readonly projection: IPImageProjection;
  /** One for each of the model's transformers. */
  scales: readonly IPScale[];
}

const className = "UNet2DConditionModel";

/**
 * The IP-Adapters of a UNet2DConditionModel: what it sees in pictures, beside the text.
 *
 * @see Diffusers `UNet2DConditionLoadersMixin._load_ip_adapter_weights` and `IPAdapterAttnProcessor2_0`
 */
export class IPAdapters {
  private adapters: readonly Adapter[] = [];
  /** Counts the changes of the adapters: a graph is of one version. */
  version = 0;

  constructor(private readonly config: Readonly<UNet2DConditionModelConfig>) {}

  get count(): number {
    return this.adapters.length;
  }

  /** What each adapter takes of a picture. */
  get inputs(): readonly IPAdapterInput[] {
    return this.adapters.map(({ projection: { takes, dim } }) => ({ takes, dim }));
  }

  /**
   * @param sources the adapters' weights, with the names of their files
   * @returns those that it had before, and has no longer
   * @throws as `check`, and nothing has changed then
   */
  set(sources: readonly WeightSource[]): WeightSource[] {
    const dropped = this.adapters.map(({ weights }) => weights).filter((weights) => !sources.includes(weights));
    this.adapters = this.check(sources);
    this.version++;
    return dropped;
  }

  /**
   * @returns the adapters that `sources` would make, with a scale of 1
   * @throws UnsupportedModelError for a UNet whose attention takes no adapter, for an IP-Adapter FaceID Plus, and for one with
   * a LoRA in its file.
   * @throws WeightsMismatchError for weights that do not fit the UNet, or that nothing would use.
   */
  check(sources: readonly WeightSource[]): readonly Adapter[] {
    if (sources.length > 0) checkTakesAdapters(this.config);
    const transformers = this.transformers;
    const adapters = sources.map((weights) => ({
      weights,
      projection: ipImageProjection(weights),
      scales: transformers.map(() => 1),
    }));
    for (const adapter of adapters) this.checkWeights(adapter);
    return adapters;
  }

  /** Sets the scales, one for all adapters' parts or a list of one for each adapter. */
  setScale(scale: number | IPScaleConfig | readonly (IPScale | IPScaleConfig)[]): void {
    const list = Array.isArray(scale) ? (scale as readonly (IPScale | IPScaleConfig)[]) : [scale as IPScaleConfig];
    if (list.length !== this.count) {
      throw new ValueError(
        `set_ip_adapter_scale: found ${list.length} scales, but ${this.count} IP-Adapters are set: give a list of ` +
          "one for each (set_ip_adapters comes first).",
        { className, field: "scale", found: `${list.length} scales`, expected: `${this.count} scales` },
      );
    }
    const scales = list.map((one) => expandIPScale(one, this.transformers));
    scales.forEach((one, i) => {
      this.adapters[i]!.scales = one;
    });
  }

  /**
   * The graph's inputs for one call, by name.
   *
   * @param embeds `added_cond_kwargs.image_embeds`
   */
  feeds(
    embeds: Tensor | readonly Tensor[] | undefined,
    masks: IPAdapterMasks | undefined,
    sample: Tensor,
  ): Record<string, Tensor> {
    const [batch, , height, width] = sample.dims as [number, number, number, number];
    if (this.count === 0) {
      const given = Array.isArray(embeds)
        ? "added_cond_kwargs.image_embeds"
        : "cross_attention_kwargs.ip_adapter_masks";
      if (!Array.isArray(embeds) && masks === undefined) return {};
      throw error(given, "given", "nothing: no IP-Adapter is set (set_ip_adapters)");
    }
    const given = this.embedsFor(embeds, batch);
    const maskList = masks === undefined ? this.adapters.map(() => null) : this.masksFor(masks);
    const feeds: Record<string, Tensor> = {};
    this.adapters.forEach((adapter, i) => {
      const image = given[i]!;
      const images = image.dims[1]!;
      const mask = maskList[i]!;
      feeds[`ip_image_embeds_${i}`] = image;
      feeds[`ip_scale_${i}`] = scaleFeed(adapter.scales, mask === null ? null : images, i);
      if (mask === null) return;
      checkMask(mask, images, batch, i);
      for (const queries of new Set(mapSizes(this.config, height, width).map(([h, w]) => h * w))) {
        feeds[`ip_mask_${i}_${queries}`] = maskFeed(mask, images, batch, queries);
      }
    });
    return feeds;
  }

  /** Emits what the second attentions see in the pictures; undefined without such inputs, as when the model's own layers are checked. */
  emit(g: GraphBuilder, dims: Dims): AttentionConditions["images"] {
    if (dims["ip_image_embeds_0"] === undefined) return undefined;
    const ids = this.attentionIds();
    const parts = this.adapters.map((adapter, i) => {
      const embeds = dims[`ip_image_embeds_${i}`]!;
      const tokens = this.within(g, i, () =>
        adapter.projection.emit(g, imageTokens(g, `ip_image_embeds_${i}`, embeds)),
      );
      const scale = g.input(`ip_scale_${i}`, dims[`ip_scale_${i}`]!);
      const prefix = `ip_mask_${i}_`;
      const names = Object.keys(dims).filter((name) => name.startsWith(prefix));
      const masks = new Map(names.map((name) => [Number(name.slice(prefix.length)), g.input(name, dims[name]!)]));
      return { batch: embeds[0]!, images: embeds[1]!, tokens, scale, masks };
    });
    const rows = new Map(this.transformers.map(({ name }, row) => [name, row]));
    return (query, name, options) => {
      const row = rows.get(name.slice(0, name.indexOf(".transformer_blocks.")))!;
      const seen = parts.map(({ batch, images, tokens, scale, masks }, i) => {
        const layer = `ip_adapter.${ids.get(name)!}`;
        const [key, value] = ["to_k_ip", "to_v_ip"].map((one) =>
          this.within(g, i, () => tokensLinear(g, tokens, `${layer}.${one}`, query.channels, { bias: false })),
        ) as [Tokens, Tokens];
        const look = lookAt(g, query, { key, value, batch, images }, options);
        if (masks.size === 0) return look(null, element(g, scale, row, 0), null);
        const mask = masks.get(query.length)!;
        const each = Array.from({ length: images }, (_, image) =>
          look(image, element(g, scale, row, image), maskOf(g, mask, image)),
        );
        return each.reduce((sum, one) => add(g, sum, one));
      });
      return seen.reduce((sum, one) => add(g, sum, one));
    };
  }

  private get transformers(): Transformer[] {
    return transformersOf(this.config);
  }

  /** The number in an adapter's file of each second attention, by name. */
  private attentionIds(): Map<string, number> {
    const names = this.transformers.flatMap(({ name, layers }) =>
      Array.from({ length: layers }, (_, i) => `${name}.transformer_blocks.${i}.attn2`),
    );
    return new Map(names.map((name, i) => [name, 2 * i + 1]));
  }

  private within<T>(g: GraphBuilder, i: number, emit: () => T): T {
    return g.withWeights(this.adapters[i]!.weights, `ip_adapter_${i}:`, emit);
  }

  /** Emits the adapter's layers alone. */
  private checkWeights({ weights, projection }: Adapter): void {
    const g = new GraphBuilder(weights, plainTarget);
    const embeds: Tokens = { batch: 1, length: 1, channels: projection.dim, value: g.input("x", [1, projection.dim]) };
    const tokens = projection.emit(g, embeds);
    const ids = this.attentionIds();
    for (const { name, layers, channels } of this.transformers) {
      for (let i = 0; i < layers; i++) {
        const layer = `ip_adapter.${ids.get(`${name}.transformer_blocks.${i}.attn2`)!}`;
        for (const one of ["to_k_ip", "to_v_ip"]) tokensLinear(g, tokens, `${layer}.${one}`, channels, { bias: false });
      }
    }
    g.build();
    const unused = [...weights.names()].filter((name) => !g.used.has(name));
    if (unused.length === 0) return;
    if (unused.some((name) => /_lora\./.test(name))) {
      throw new UnsupportedModelError(
        `${weights.file} has a LoRA for the UNet beside the IP-Adapter (${unused[0]}), which is not built: it is an ` +
          "IP-Adapter FaceID. Load the LoRA from a file of its own, and the IP-Adapter without it.",
        { className: "IPAdapter", field: "ip_adapter", file: weights.file, tensors: unused },
      );
    }
    throw new WeightsMismatchError(
      `${weights.file} has ${unused.length} tensors that this ${className} has no use for: ${unused.slice(0, 5).join(", ")}. ` +
        "Check that the IP-Adapter is for this model (SD 1.x, SDXL).",
      {
        file: weights.file,
        tensors: unused,
        found: unused[0]!,
        expected: "image_proj.* and ip_adapter.* of this UNet",
      },
    );
  }

  private embedsFor(embeds: Tensor | readonly Tensor[] | undefined, batch: number): Tensor[] {
    const field = "added_cond_kwargs.image_embeds";
    if (embeds === undefined || embeds === null)
      throw error(field, "undefined", `a list of ${this.count} tensors, one for each IP-Adapter`);
    // As in Diffusers, a single tensor has one picture for each batch item, and no dim for pictures.
    const list = embeds instanceof Tensor ? [embeds.unsqueeze(1)] : embeds;
    if (list.length !== this.count) {
      throw error(field, `${list.length} tensors`, `${this.count}, one for each IP-Adapter`);
    }
    return list.map((tensor, i) => {
      const { dim, takes } = this.adapters[i]!.projection;
      const takesSequence = takes === "hidden_states";
      const dims = (tensor as unknown) instanceof Tensor ? tensor.dims : [];
      if (dims.length === (takesSequence ? 4 : 3) && dims[0] === batch && dims.at(-1) === dim && tensor.size > 0) {
        return tensor;
      }
      // One embedding as a sequence of one is the same numbers.
      if (!takesSequence && dims.length === 4 && dims[0] === batch && dims[2] === 1 && dims[3] === dim) {
        return tensor.reshape(batch, dims[1]!, dim);
      }
      const expected = takesSequence ? `[${batch}, images, length, ${dim}]` : `[${batch}, images, ${dim}]`;
      throw error(`${field}[${i}]`, textOf(tensor), expected);
    });
  }

  private masksFor(masks: IPAdapterMasks): (Tensor | null)[] {
    const field = "cross_attention_kwargs.ip_adapter_masks";
    const list = masks instanceof Tensor ? masks.chunk(masks.dims[0]!) : [...masks];
    if (list.length !== this.count) {
      throw error(field, `${list.length} masks`, `${this.count}, one (or null) for each IP-Adapter`);
    }
    return list;
  }
}

const plainTarget: Target = {
  layout: "nchw",
  dtype: "float32",
  fused: { attention: false, groupNorm: false, biasSplitGelu: false, quickGelu: false, skipLayerNorm: false },
};

/** @throws UnsupportedModelError, naming the field, for a UNet that Diffusers cannot give an IP-Adapter either. */
function checkTakesAdapters(config: Readonly<UNet2DConditionModelConfig>): void {
  const refuse = (field: keyof UNet2DConditionModelConfig, expected: string): void => {
    const found = JSON.stringify(config[field]);
    throw new UnsupportedModelError(
      `An IP-Adapter cannot be used with a ${className} of \`${field}\` ${found}: ${expected} is needed.`,
      { className, field, found, expected },
    );
  };
  const isOther = (type: string): boolean => /Attn/.test(type) && !/^CrossAttn/.test(blockName(type));
  for (const field of ["down_block_types", "up_block_types"] as const) {
    if (config[field].some(isOther))
      refuse(field, "no attention but that of CrossAttnDownBlock2D and CrossAttnUpBlock2D");
  }
  if (config.mid_block_type === "UNetMidBlock2DSimpleCrossAttn") refuse("mid_block_type", "UNetMidBlock2DCrossAttn");
  const only = config.only_cross_attention;
  if (Array.isArray(only) ? only.some(Boolean) : only) refuse("only_cross_attention", "false");
  if (![null, "default"].includes(config.attention_type)) refuse("attention_type", '"default"');
  if (![null, "text_proj"].includes(config.encoder_hid_dim_type)) refuse("encoder_hid_dim_type", "null or text_proj");
  if (typeof config.cross_attention_dim !== "number") refuse("cross_attention_dim", "one number");
  const transformers = transformersOf(config);
  if (transformers.length === 0) refuse("down_block_types", "a CrossAttnDownBlock2D or CrossAttnUpBlock2D");
  const unequal = transformers.some(({ channels, heads }) => channels % heads !== 0);
  if (unequal) refuse("attention_head_dim", "a number of heads that divides the channels");
}

function textOf(value: unknown): string {
  return value instanceof Tensor ? `[${value.dims}]` : String(value);
}

function error(field: string, found: string, expected: string): ValueError {
  return new ValueError(`${className}: \`${field}\` is ${found}, but ${expected} is expected.`, {
    className,
    field,
    found,
    expected,
  });
}

/** `[batch, images, (length,) dim]` as one sequence for each picture. */
function imageTokens(g: GraphBuilder, name: string, dims: readonly number[]): Tokens {
  const channels = dims.at(-1)!;
  const batch = dims[0]! * dims[1]!;
  const length = dims.length === 4 ? dims[2]! : 1;
  return { batch, length, channels, value: g.reshape(g.input(name, dims), [batch * length, channels]) };
}

/** A matrix of scales: a row for each transformer, a column for each masked picture. */
function scaleFeed(scales: readonly IPScale[], images: number | null, adapter: number): Tensor {
  const columns = images ?? 1;
  const data = scales.flatMap((scale) => {
    if (typeof scale === "number") return new Array<number>(columns).fill(scale);
    if (images !== null && scale.length === images) return [...scale];
    const expected = images === null ? "a number: there is no mask for it" : `${images}, one for each masked picture`;
    throw error(`set_ip_adapter_scale[${adapter}]`, `a list of ${scale.length} scales`, expected);
  });
  return new Tensor("float32", Float32Array.from(data), [scales.length, columns]);
}

function checkMask(mask: unknown, images: number, batch: number, i: number): void {
  const dims = mask instanceof Tensor ? mask.dims : [];
  const [items, count, height, width] = dims;
  const isFor = (items === 1 || items === batch) && count === images;
  if (dims.length === 4 && isFor && height! > 0 && width! > 0) return;
  throw error(`cross_attention_kwargs.ip_adapter_masks[${i}]`, textOf(mask), `[1, ${images}, height, width]`);
}

/** The mask for attentions of this many queries: `[images, batch * queries]`. */
function maskFeed(mask: Tensor, images: number, batch: number, queries: number): Tensor {
  const [items, , height, width] = mask.dims as [number, number, number, number];
  const data = new Float32Array(images * batch * queries);
  const { data: pixels } = mask.to("float32");
  for (let image = 0; image < images; image++) {
    for (let item = 0; item < batch; item++) {
      const begin = ((items === 1 ? 0 : item) * images + image) * height * width;
      const small = downsampleMask(pixels.subarray(begin, begin + height * width), height, width, queries);
      data.set(small, (image * batch + item) * queries);
    }
  }
  return new Tensor("float32", data, [images, batch * queries]);
}

interface Pictures {
  readonly key: Tokens;
  readonly value: Tokens;
  readonly batch: number;
  readonly images: number;
}

/** Attention to all of an adapter's pictures, or to one of them and under a mask. */
function lookAt(g: GraphBuilder, query: Tokens, { key, value, batch, images }: Pictures, options: HeadOptions) {
  return (image: number | null, scale: Value, mask: Value | null): Tokens => {
    const part = (x: Tokens): Tokens => {
      const length = image === null ? images * x.length : x.length;
      const all = g.reshape(x.value, [batch, images, x.length, x.channels]);
      const rows = image === null || images === 1 ? all : slice(g, all, 1, image);
      return { batch, length, channels: x.channels, value: g.reshape(rows, [batch * length, x.channels]) };
    };
    const v = part(value);
    // The scale goes into the values: they are far fewer than the queries.
    const scaled = { ...v, value: g.op("Mul", [v.value, scale], v.value.dims) };
    const seen = scaledDotProductAttention(g, query, part(key), scaled, options);
    return mask === null ? seen : { ...seen, value: g.op("Mul", [seen.value, mask], seen.value.dims) };
  };
}

/** `[1, 1]` of a matrix. */
function element(g: GraphBuilder, matrix: Value, row: number, column: number): Value {
  return slice(g, slice(g, matrix, 0, row), 1, column);
}

/** A picture's mask as a column that scales rows of queries. */
function maskOf(g: GraphBuilder, masks: Value, image: number): Value {
  return g.reshape(slice(g, masks, 0, image), [masks.dims[1]!, 1]);
}

/** One entry along an axis. */
function slice(g: GraphBuilder, x: Value, axis: number, at: number): Value {
  if (x.dims[axis] === 1) return x;
  const dims = x.dims.map((dim, i) => (i === axis ? 1 : dim));
  return g.op("Slice", [x, g.integers([at]), g.integers([at + 1]), g.integers([axis])], dims);
}
