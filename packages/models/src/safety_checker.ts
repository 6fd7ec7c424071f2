import {
  type ConfigDict,
  configDefaults,
  type DataType,
  float,
  RawImage,
  Tensor,
  ValueError,
} from "@diffusers-web/core";
import type { GraphBuilder } from "./graph/builder.ts";
import { mapInput } from "./layers/layout.ts";
import { linear } from "./layers/linear.ts";
import { ModelMixin } from "./modeling_utils.ts";
import { checkWhole } from "./transformers/clip_config.ts";
import {
  type CLIPVisionConfig,
  checkCLIPVisionConfig,
  clipVisionDefaults,
  clipVisionTransformer,
  prepareCLIPVisionConfig,
} from "./transformers/clip_vision.ts";

/** The config of a {@link StableDiffusionSafetyChecker}: the fields of transformers' `CLIPConfig` that concern pictures. */
export interface StableDiffusionSafetyCheckerConfig {
  vision_config: CLIPVisionConfig;
  /** The width of what a picture and a concept are compared in. */
  projection_dim: number;
  /** Training only. */
  logit_scale_init_value: number;
  initializer_factor: number;
}

/** Pictures to be checked: `[batch, ...]`, or a list. */
export type CheckedImages = Tensor<DataType> | readonly (RawImage | Tensor<DataType>)[];

/** What a {@link StableDiffusionSafetyChecker} gives. */
export interface SafetyCheckerOutput<Images extends CheckedImages = CheckedImages> {
  /** The pictures, those that were flagged black. What was passed in is left as it is. */
  readonly images: Images;
  /** For each picture, whether it was flagged. */
  readonly has_nsfw_concepts: boolean[];
}

export interface StableDiffusionSafetyChecker {
  /** {@link StableDiffusionSafetyChecker.forward} */
  <Images extends CheckedImages>(clip_input: Tensor, images: Images): Promise<SafetyCheckerOutput<Images>>;
}

const name = "StableDiffusionSafetyChecker";

/** Embeddings that pictures are compared with, and how near a picture may come to each. */
interface Concepts {
  readonly embeds: Float32Array;
  readonly thresholds: Float32Array;
}

/**
 * Looks at pictures through CLIP's eyes, and blackens those that come near to one of 17 concepts. When a picture is near to one of
 * three special ones, it is judged more strictly.
 *
 * @see Diffusers `StableDiffusionSafetyChecker`
 */
export class StableDiffusionSafetyChecker extends ModelMixin<StableDiffusionSafetyCheckerConfig> {
  static override readonly name: string = "StableDiffusionSafetyChecker";
  static override readonly weights_name: string = "model";
  static override readonly config_defaults: StableDiffusionSafetyCheckerConfig =
    configDefaults<StableDiffusionSafetyCheckerConfig>({
      vision_config: clipVisionDefaults,
      projection_dim: 512,
      logit_scale_init_value: 2.6592,
      initializer_factor: float(1),
    });

  // Compared with in TypeScript; `build` reads them.
  private concepts: Concepts | undefined;
  private specialCare: Concepts | undefined;

  /** @throws UnsupportedModelError and ValueError naming a config field that is not built or wrong. */
  constructor(config: Partial<StableDiffusionSafetyCheckerConfig> = {}) {
    super({ ...config, vision_config: { ...clipVisionDefaults, ...config.vision_config } });
    checkCLIPVisionConfig(name, this.config.vision_config);
    checkWhole(name, this.config, ["projection_dim"]);
  }

  /** The part that concerns pictures, of a config in any of the forms that transformers has written. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    const { model_type, quantization_config } = config;
    // Older releases wrote what differs from the defaults a second time: it counts.
    const written = config["vision_config_dict"] as ConfigDict | null | undefined;
    const nested = config["vision_config"] as ConfigDict | null | undefined;
    const vision_config = written == null ? { ...nested } : { ...nested, ...clipVisionDefaults, ...written };
    const part = prepareCLIPVisionConfig({ model_type, quantization_config, vision_config }, name);
    const fields = Object.keys(StableDiffusionSafetyChecker.config_defaults).filter((field) => field in config);
    const own = Object.fromEntries(fields.map((field) => [field, config[field]]));
    return { ...own, vision_config: { ...clipVisionDefaults, ...part } };
  }

  /**
   * Checks pictures.
   *
   * @param clip_input the pictures as CLIP takes them, `[batch, channels, image_size, image_size]`: see `CLIPImageProcessor`
   * @param images the pictures themselves, as many, in any size
   * @throws ValueError for a `clip_input` of another shape, and for another number of pictures.
   */
  override async forward<Images extends CheckedImages>(
    clip_input: Tensor,
    images: Images,
  ): Promise<SafetyCheckerOutput<Images>> {
    const { num_channels, image_size } = this.config.vision_config;
    const dims = [clip_input?.dims?.[0] ?? 0, num_channels, image_size, image_size];
    if (!(clip_input instanceof Tensor) || clip_input.size === 0 || String(clip_input.dims) !== String(dims)) {
      const found = clip_input instanceof Tensor ? `[${(clip_input as Tensor).dims.join(", ")}]` : typeof clip_input;
      const expected = `[batch, ${dims.slice(1).join(", ")}]`;
      throw new ValueError(`${name}: \`clip_input\` is ${found}, expected a tensor ${expected}.`, {
        className: name,
        field: "clip_input",
        found,
        expected,
      });
    }
    const batch = dims[0]!;
    const count = images instanceof Tensor ? images.dims[0] : images?.length;
    if (count !== batch) {
      throw new ValueError(`${name}: \`images\` are ${count ?? "none"}, but \`clip_input\` has ${batch}.`, {
        className: name,
        field: "images",
        found: String(count),
        expected: String(batch),
      });
    }
    const session = await this.session("forward", dims, (g) => this.build(g, dims));
    const { image_embeds } = await session.run({ clip_input: clip_input.to("float32") });
    const has_nsfw_concepts = this.judge(image_embeds!);
    if (!has_nsfw_concepts.includes(true)) return { images, has_nsfw_concepts };
    console.warn(
      "The safety checker took one or more pictures for unsafe: they come back black. Try another prompt or another seed.",
    );
    return { images: blackened(images, has_nsfw_concepts) as Images, has_nsfw_concepts };
  }

  /** For each picture, whether it comes nearer to a concept than it may. Rounds where numpy does. */
  private judge(image_embeds: Tensor): boolean[] {
    const special = cosines(image_embeds, this.specialCare!.embeds);
    const general = cosines(image_embeds, this.concepts!.embeds);
    return special.map((distances, i) => {
      let adjustment = 0;
      for (const [k, distance] of distances.entries()) {
        if (score(distance, this.specialCare!.thresholds[k]!, adjustment) > 0) adjustment = 0.01;
      }
      return general[i]!.some((distance, k) => score(distance, this.concepts!.thresholds[k]!, adjustment) > 0);
    });
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { num_channels, image_size } = this.config.vision_config;
    build((g) => this.build(g, [1, num_channels, image_size, image_size]));
  }

  private build(g: GraphBuilder, dims: readonly number[]): void {
    const { vision_config, projection_dim } = this.config;
    // Until transformers 5, the image encoder was one module deeper.
    const old = "vision_model.vision_model.";
    const prefix = g.has(`${old}embeddings.class_embedding`) ? old : "vision_model.";
    const { pooled } = clipVisionTransformer(g, prefix, vision_config, mapInput(g, "clip_input", dims));
    g.output("image_embeds", linear(g, pooled, "visual_projection", projection_dim, { bias: false }));
    const read = (which: string, count: number): Concepts => ({
      embeds: g.read(`${which}_embeds`, [count, projection_dim]),
      thresholds: g.read(`${which}_embeds_weights`, [count]),
    });
    this.concepts = read("concept", 17);
    this.specialCare = read("special_care", 3);
  }
}

/** The cosine of the angle between each of the pictures and each of the concepts. */
function cosines(image_embeds: Tensor, concepts: Float32Array): number[][] {
  const [batch, size] = image_embeds.dims as [number, number];
  const rows = (data: Float32Array): Float32Array[] =>
    Array.from({ length: data.length / size }, (_, i) => data.subarray(i * size, (i + 1) * size));
  const dot = (a: Float32Array, b: Float32Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const length = (a: Float32Array): number => Math.max(Math.sqrt(dot(a, a)), 1e-12);
  return rows(image_embeds.data.subarray(0, batch * size)).map((image) =>
    rows(concepts).map((concept) => dot(image, concept) / (length(image) * length(concept))),
  );
}

/** How much nearer than allowed, to three places: in float32, as numpy computes it. */
function score(cosine: number, threshold: number, adjustment: number): number {
  const { fround } = Math;
  const exact = fround(fround(fround(cosine) - threshold) + fround(adjustment));
  const thousandths = fround(exact * 1000);
  const floor = Math.floor(thousandths);
  // A half goes to the even neighbour.
  const isDown = thousandths - floor < 0.5 || (thousandths - floor === 0.5 && floor % 2 === 0);
  return (isDown ? floor : floor + 1) / 1000;
}

/** A copy in which the flagged pictures are zero throughout. */
function blackened(images: CheckedImages, flags: readonly boolean[]): CheckedImages {
  const zeros = (tensor: Tensor<DataType>): Tensor<DataType> => Tensor.zeros(tensor.dims, tensor.type);
  if (!(images instanceof Tensor)) {
    return images.map((image, i) => {
      if (!flags[i]) return image;
      if (image instanceof Tensor) return zeros(image);
      return new RawImage(new Uint8ClampedArray(image.data.length), image.width, image.height, image.channels);
    });
  }
  const parts = flags.map((flag, i) => (flag ? zeros(images.slice([i, i + 1])) : images.slice([i, i + 1])));
  return Tensor.cat(parts);
}
