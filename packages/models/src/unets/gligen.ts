import { checkOptions, type DataType, Tensor, ValueError } from "@diffusers-web/core";
import { perBlock } from "../config_checks.ts";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { concatTokens, type Tokens, tokensInput } from "../layers/layout.ts";
import { linear } from "../layers/linear.ts";
import type { Dims } from "./inputs.ts";
import type { UNet2DConditionModelConfig } from "./unet_2d_condition_config.ts";

/** What a picture is grounded on: boxes with phrases, and with pictures where `attention_type` is "gated-text-image". */
export interface GligenInputs {
  /** Left, top, right and bottom as parts of the picture's size: `[batch, objects, 4]`. */
  readonly boxes: Tensor;
  /** 1 for an object, 0 for a row that is not used: `[batch, objects]`. */
  readonly masks: Tensor<DataType>;
  /** For "gated": the phrases' pooled text, `[batch, objects, cross_attention_dim]`. */
  readonly positive_embeddings?: Tensor | undefined;
  /** For "gated-text-image": as `masks`, of the phrases. */
  readonly phrases_masks?: Tensor<DataType> | undefined;
  /** For "gated-text-image": as `masks`, of the pictures. */
  readonly image_masks?: Tensor<DataType> | undefined;
  /** For "gated-text-image": as `positive_embeddings`. */
  readonly phrases_embeddings?: Tensor | undefined;
  /** For "gated-text-image": the pictures' embeddings, `[batch, objects, cross_attention_dim]`. */
  readonly image_embeddings?: Tensor | undefined;
}

const frequencies = 8;
/** For each frequency the sine and the cosine of four coordinates. */
const positionDim = frequencies * 2 * 4;
const className = "UNet2DConditionModel";

/**
 * The tokens that `attention_type` "gated" and "gated-text-image" attend to: what stands in the boxes.
 *
 * Where a mask is 0, learned features take the place of an object's: both are mixed in TypeScript, the layers over them
 * are in the graph.
 *
 * @see Diffusers `GLIGENTextBoundingboxProjection`
 */
export class PositionNet {
  // Small tensors of the checkpoint that are used in TypeScript; `emit` reads them.
  private readonly features = new Map<string, Float32Array>();

  constructor(
    private readonly config: Readonly<
      Pick<UNet2DConditionModelConfig, "attention_type" | "cross_attention_dim" | "down_block_types">
    >,
  ) {}

  /** The graph's inputs for one call, by name. */
  feeds(given: GligenInputs | undefined, batch: number): Record<string, Tensor> {
    if (given === undefined) return {};
    const parts = this.parts;
    if (parts.length === 0) {
      throw refuse(
        "gligen",
        "given",
        `nothing: this model has \`attention_type\` ${JSON.stringify(this.config.attention_type)}`,
      );
    }
    const known = ["boxes", "masks", ...parts.flatMap(({ mask, embeddings }) => [mask, embeddings])];
    checkOptions(`${className}: cross_attention_kwargs.gligen`, given, known);
    const objects = given.boxes instanceof Tensor ? (given.boxes.dims[1] ?? 0) : 0;
    const field = (name: keyof GligenInputs, ...dims: number[]): Float32Array => {
      const tensor: unknown = given[name];
      const found = tensor instanceof Tensor ? `[${tensor.dims}]` : String(tensor);
      if (tensor instanceof Tensor && found === `[${dims}]` && objects > 0)
        return tensor.to("float32").data as Float32Array;
      throw refuse(
        `gligen.${name}`,
        found,
        dims.length === 3 ? `[${batch}, objects, ${dims[2]}]` : `[${batch}, objects]`,
      );
    };
    const boxes = boxWaves(field("boxes", batch, objects, 4));
    const masks = field("masks", batch, objects);
    const position = this.mixed(boxes, masks, "null_position_feature", positionDim);
    const feeds: Record<string, Tensor> = {};
    for (const { input, mask, embeddings, nothing } of parts) {
      const own = field(mask, batch, objects);
      const rows = this.mixed(field(embeddings, batch, objects, this.dim), own, nothing, this.dim);
      const beside = (data: Float32Array): Tensor =>
        new Tensor("float32", data, [batch, objects, data.length / own.length]);
      feeds[input] = Tensor.cat([beside(rows), beside(position)], 2);
    }
    return feeds;
  }

  /** The dims of these inputs, for a batch of one. */
  inputDims(): Record<string, readonly number[]> {
    return Object.fromEntries(this.parts.map(({ input }) => [input, [1, 1, this.dim + positionDim]]));
  }

  /** Emits the objects' tokens; undefined when there are none. */
  emit(g: GraphBuilder, dims: Dims): Tokens | undefined {
    const given = this.parts.filter(({ input }) => dims[input] !== undefined);
    if (given.length === 0) return undefined;
    this.features.set("null_position_feature", g.read("position_net.null_position_feature", [positionDim]));
    const tokens = given.map(({ input, layers, nothing }) => {
      this.features.set(nothing, g.read(`position_net.${nothing}`, [this.dim]));
      const rows = tokensInput(g, input, dims[input]!);
      let hidden: Value = rows.value;
      for (const i of [0, 2]) {
        hidden = activation(g, linear(g, hidden, `position_net.${layers}.${i}`, 512), "silu");
      }
      return { ...rows, channels: this.dim, value: linear(g, hidden, `position_net.${layers}.4`, this.dim) };
    });
    return tokens.reduce((all, part) => concatTokens(g, all, part));
  }

  private get dim(): number {
    return perBlock(this.config.cross_attention_dim, this.config.down_block_types)[0]!;
  }

  /** What objects are known by. */
  private get parts() {
    switch (this.config.attention_type) {
      case "gated":
        return [part("gligen_objects", "masks", "positive_embeddings", "linears", "null_positive_feature")];
      case "gated-text-image":
        return [
          part("gligen_phrases", "phrases_masks", "phrases_embeddings", "linears_text", "null_text_feature"),
          part("gligen_images", "image_masks", "image_embeddings", "linears_image", "null_image_feature"),
        ];
      default:
        return [];
    }
  }

  /** `x * mask + (1 - mask) * nothing`, row by row. */
  private mixed(x: Float32Array, mask: Float32Array, nothing: string, dim: number): Float32Array {
    const feature = this.features.get(nothing)!;
    return x.map((value, i) => {
      const kept = mask[Math.floor(i / dim)]!;
      return Math.fround(value * kept) + Math.fround(1 - kept) * feature[i % dim]!;
    });
  }
}

function part(
  input: string,
  mask: keyof GligenInputs,
  embeddings: keyof GligenInputs,
  layers: string,
  nothing: string,
) {
  return { input, mask, embeddings, layers, nothing };
}

/** Sines and cosines of coordinates: for each row of 4, `[frequencies, sine and cosine, 4]`. */
function boxWaves(boxes: Float32Array): Float32Array {
  const scales = Array.from({ length: frequencies }, (_, i) => Math.fround(100 ** (i / frequencies)));
  const waves = new Float32Array(boxes.length * 2 * frequencies);
  boxes.forEach((coordinate, at) => {
    const row = Math.floor(at / 4) * positionDim + (at % 4);
    scales.forEach((scale, i) => {
      const angle = Math.fround(scale * coordinate);
      waves[row + i * 8] = Math.sin(angle);
      waves[row + i * 8 + 4] = Math.cos(angle);
    });
  });
  return waves;
}

function refuse(field: string, found: string, expected: string): ValueError {
  return new ValueError(`${className}: \`cross_attention_kwargs.${field}\` is ${found}, but ${expected} is expected.`, {
    className,
    field: `cross_attention_kwargs.${field}`,
    found,
    expected,
  });
}
