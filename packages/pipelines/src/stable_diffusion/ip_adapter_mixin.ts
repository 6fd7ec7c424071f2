import { type ImageSource, type SourceLike, Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type {
  CLIPVisionModelWithProjection,
  IPAdapterInput,
  IPScale,
  IPScaleConfig,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import type { CLIPImageProcessor } from "../image_processing_clip.ts";
import type { IPAdapterLoadOptions } from "../loaders/ip_adapter.ts";
import type { PipelineClass } from "../pipeline_utils.ts";
import { GuidedPipeline } from "./guided_pipeline.ts";
import type { ImageInput } from "./image_latents.ts";

/** The pictures that IP-Adapters are shown in a call: a picture or a list of them for each adapter. */
export type IPAdapterImage = ImageSource | readonly ImageInput[];

/** What of a call's options is for IP-Adapters. */
export interface IPAdapterCallOptions {
  /**
   * What the IP-Adapter is shown; with several adapters a list of one entry for each. An entry that is a list is several
   * pictures for one adapter, so that `[[first, second]]` is two for the only one. A tensor `[pictures, 3, height, width]` is
   * taken for what the feature extractor makes of pictures.
   */
  readonly ip_adapter_image?: IPAdapterImage | null | undefined;
  /**
   * In place of `ip_adapter_image`, a tensor for each adapter, as `prepare_ip_adapter_image_embeds` gives them:
   * `[2, pictures, width]`, or `[2, pictures, length, width]` for adapters that take sequences (Plus, Full). The negative ones
   * come first; without guidance there are none.
   */
  readonly ip_adapter_image_embeds?: readonly Tensor[] | null | undefined;
}

/** How {@link IPAdapterMixin.encode_image} encodes. */
export interface ImageEncodingOptions {
  /** Default 1. */
  readonly num_images_per_prompt?: number | undefined;
  /** The last hidden states but one in place of the embeddings: what IP-Adapter Plus and Full take. Default false. */
  readonly output_hidden_states?: boolean | undefined;
}

/** What {@link IPAdapterMixin.encode_image} gives. */
export interface ImageEmbeddings {
  /** `[pictures * num_images_per_prompt, width]`, or `[..., length, width]` of hidden states. */
  readonly image_embeds: Tensor;
  /** The same of no picture. */
  readonly uncond_image_embeds: Tensor;
}

/** What {@link IPAdapterMixin.prepare_ip_adapter_image_embeds} takes. */
export interface PrepareImageEmbedsOptions extends IPAdapterCallOptions {
  /** How many pictures a call makes. Default 1. */
  readonly num_images_per_prompt?: number | undefined;
  /** Put the negative ones in front. Default true. */
  readonly do_classifier_free_guidance?: boolean | undefined;
}

export interface IPAdapterMixin {
  /** What IP-Adapters see pictures through. */
  image_encoder: CLIPVisionModelWithProjection | null;
  /** Prepares pictures for the image encoder, and for the safety checker. */
  feature_extractor: CLIPImageProcessor | null;
}

/**
 * Pipelines whose UNet can be given IP-Adapters: pictures that it sees beside the text.
 *
 * @see Diffusers `IPAdapterMixin`; Ye et al., https://arxiv.org/abs/2308.06721
 */
export abstract class IPAdapterMixin extends GuidedPipeline {
  static override readonly name: string = "IPAdapterMixin";

  /** The image encoder that {@link IPAdapterMixin.load_ip_adapter} has loaded. */
  private ownEncoder: CLIPVisionModelWithProjection | undefined;

  /**
   * Gives the UNet IP-Adapters, in place of those it had, with a scale of 1; loads their image encoder when the pipeline has
   * none, and makes a feature extractor. Nothing else of the repository is fetched. When something is wrong, the pipeline stays
   * as it was.
   *
   * Pipelines that share the UNet by `from_pipe` share its adapters.
   *
   * @param from a hub id, a URL, a folder in Node, or a source; a list of one for each adapter, where they are not all there
   * @example
   * ```ts
   * await pipeline.load_ip_adapter("h94/IP-Adapter", { subfolder: "models", weight_name: "ip-adapter_sd15.safetensors" });
   * pipeline.set_ip_adapter_scale(0.6);
   * const { images } = await pipeline("a bear in a forest", { ip_adapter_image: "statue.png" });
   * ```
   * @throws UnsupportedModelError for a pickle, for a UNet or a pipeline that takes no IP-Adapter, and for an IP-Adapter FaceID
   * Plus or one with a LoRA in its file; WeightsMismatchError for one of another model; ModelNotFoundError for a file that is
   * not there; IntegrityError for a damaged one; ValueError for lists of different lengths, TypeError for an unknown option.
   * @see Diffusers `IPAdapterMixin.load_ip_adapter`
   */
  async load_ip_adapter(from: SourceLike | readonly SourceLike[], options: IPAdapterLoadOptions): Promise<void> {
    const { loadIPAdapters } = await import("../loaders/ip_adapter.ts");
    const unet = this.unetForAdapters();
    const { image_encoder, feature_extractor } = this;
    const loaded = await loadIPAdapters({ unet, image_encoder, feature_extractor }, from, options);
    if (loaded.image_encoder !== undefined) this.ownEncoder = loaded.image_encoder;
    this.register_modules({ ...loaded });
  }

  /**
   * Sets how much the pictures count, beside the text. It takes effect at once: nothing is built anew.
   *
   * @param scale 0 (not at all) to 1; or scales by block, as `{ up: { block_0: [0, 1, 0] } }` for the style alone, where what is
   * not named gets 0; with several adapters a list of one of these for each
   * @throws ValueError for another number of scales than adapters, and for a block that the UNet does not have.
   * @see Diffusers `IPAdapterMixin.set_ip_adapter_scale`; InstantStyle, https://arxiv.org/abs/2404.02733
   */
  set_ip_adapter_scale(scale: number | IPScaleConfig | readonly (IPScale | IPScaleConfig)[]): void {
    this.unetForAdapters().set_ip_adapter_scale(scale);
  }

  /**
   * Takes the IP-Adapters and the image encoder away; the encoder is freed if `load_ip_adapter` has loaded it. So is the feature
   * extractor, unless the class has a safety checker, which takes it as well.
   *
   * @see Diffusers `IPAdapterMixin.unload_ip_adapter`
   */
  async unload_ip_adapter(): Promise<void> {
    this.unetForAdapters().set_ip_adapters([]);
    const { component_names } = this.constructor as unknown as PipelineClass;
    this.image_encoder = null;
    if (!component_names.includes("safety_checker")) this.feature_extractor = null;
    const encoder = this.ownEncoder;
    this.ownEncoder = undefined;
    await encoder?.dispose();
  }

  /**
   * Encodes pictures, and what stands for no picture.
   *
   * @param image pictures, or a tensor `[pictures, 3, height, width]` as the feature extractor makes it
   * @throws ValueError without an image encoder or a feature extractor, and for a tensor of another size than the encoder takes.
   * @see Diffusers `StableDiffusionPipeline.encode_image`
   */
  async encode_image(
    image: ImageInput,
    { num_images_per_prompt = 1, output_hidden_states = false }: ImageEncodingOptions = {},
  ): Promise<ImageEmbeddings> {
    const { image_encoder, feature_extractor } = this;
    if (image_encoder === null) throw missingPart("image_encoder");
    if (!(image instanceof Tensor) && feature_extractor === null) throw missingPart("feature_extractor");
    const pixel_values = image instanceof Tensor ? image : (await feature_extractor!(image)).pixel_values;
    const repeated = (embeds: Tensor): Tensor =>
      num_images_per_prompt === 1 ? embeds : embeds.repeat_interleave(num_images_per_prompt, 0);
    if (!output_hidden_states) {
      const image_embeds = repeated((await image_encoder(pixel_values, { output_hidden_states })).image_embeds);
      return { image_embeds, uncond_image_embeds: Tensor.zeros(image_embeds.dims) };
    }
    const encode = async (pixels: Tensor): Promise<Tensor> =>
      repeated((await image_encoder(pixels)).hidden_states.at(-2)!);
    return {
      image_embeds: await encode(pixel_values),
      uncond_image_embeds: await encode(Tensor.zeros(pixel_values.dims)),
    };
  }

  /**
   * What the UNet sees of pictures, for `ip_adapter_image_embeds` of later calls: the pictures are then encoded once.
   *
   * @returns a tensor for each adapter: `[2 * num_images_per_prompt, pictures, width]`, the negative ones first; or
   * `[..., pictures, length, width]`
   * @throws ValueError for pictures or embeddings that are not as many as the adapters, or that these do not take.
   * @see Diffusers `StableDiffusionPipeline.prepare_ip_adapter_image_embeds`
   */
  async prepare_ip_adapter_image_embeds({
    ip_adapter_image,
    ip_adapter_image_embeds,
    num_images_per_prompt = 1,
    do_classifier_free_guidance = true,
  }: PrepareImageEmbedsOptions): Promise<Tensor[]> {
    const adapters = this.unetForAdapters().ip_adapter_inputs;
    if (ip_adapter_image == null && ip_adapter_image_embeds == null) throw noImage(adapters.length);
    const [given, field] =
      ip_adapter_image_embeds != null
        ? [ip_adapter_image_embeds, "ip_adapter_image_embeds"]
        : [Array.isArray(ip_adapter_image) ? ip_adapter_image : [ip_adapter_image], "ip_adapter_image"];
    if (given.length !== adapters.length) throw wrongCount(field, given, adapters.length);
    const prepared: Tensor[] = [];
    for (const [i, adapter] of adapters.entries()) {
      let image_embeds: Tensor;
      let negative_image_embeds: Tensor | undefined;
      if (ip_adapter_image_embeds != null) {
        image_embeds = ip_adapter_image_embeds[i]!;
        if (do_classifier_free_guidance) [negative_image_embeds, image_embeds] = halves(image_embeds, i);
      } else {
        if (adapter.takes === "face") throw wantsFace(i);
        const output_hidden_states = adapter.takes === "hidden_states";
        const encoded = await this.encode_image(given[i] as ImageInput, { output_hidden_states });
        image_embeds = encoded.image_embeds.unsqueeze(0);
        if (do_classifier_free_guidance) negative_image_embeds = encoded.uncond_image_embeds.unsqueeze(0);
      }
      checkWidth(image_embeds, adapter, `${field}[${i}]`);
      const parts = negative_image_embeds === undefined ? [image_embeds] : [negative_image_embeds, image_embeds];
      prepared.push(Tensor.cat(parts.flatMap((part) => new Array<Tensor>(num_images_per_prompt).fill(part))));
    }
    return prepared;
  }

  /**
   * What a call tells the UNet of pictures, to be spread into `added_cond_kwargs`; nothing without IP-Adapters.
   *
   * @param batch how many pictures the call makes
   * @throws ValueError for pictures without an adapter, and for an adapter without pictures.
   */
  protected async imageConditions(
    { ip_adapter_image, ip_adapter_image_embeds }: IPAdapterCallOptions,
    batch: number,
  ): Promise<{ readonly image_embeds?: readonly Tensor[] }> {
    const isGiven = ip_adapter_image != null || ip_adapter_image_embeds != null;
    // An ONNX export has none, and no way to have one.
    const count = (this.unet as Partial<UNet2DConditionModel>).num_ip_adapters ?? 0;
    if (!isGiven && count === 0) return {};
    if (!isGiven) throw noImage(count);
    const { do_classifier_free_guidance } = this;
    const prepared = await this.prepare_ip_adapter_image_embeds({
      ...{ ip_adapter_image, ip_adapter_image_embeds, do_classifier_free_guidance },
      num_images_per_prompt: batch,
    });
    // Embeddings with a batch of their own are so many pictures for each one, as in Diffusers.
    const rows = do_classifier_free_guidance ? 2 * batch : batch;
    return { image_embeds: prepared.map((embeds) => embeds.reshape(rows, -1, ...embeds.dims.slice(2))) };
  }

  /** @throws UnsupportedModelError for a pipeline or a UNet that takes no IP-Adapter. */
  private unetForAdapters(): UNet2DConditionModel {
    const { name, component_names, optional_components } = this.constructor as unknown as PipelineClass;
    if (![component_names, optional_components].every((names) => names.includes("image_encoder"))) {
      throw new UnsupportedModelError(`${name} takes no IP-Adapter, nor does it in Diffusers.`, { className: name });
    }
    this.checkParts(["unet"]);
    if ((this.unet as Partial<UNet2DConditionModel>).set_ip_adapters !== undefined) return this.unet;
    const className = this.unet.constructor.name;
    throw new UnsupportedModelError(
      `This pipeline's unet is an ${className}, whose graph is fixed: it takes no IP-Adapter.`,
      { className, field: "unet", found: className, expected: "a UNet2DConditionModel" },
    );
  }
}

function missingPart(name: string): ValueError {
  return new ValueError(
    `The pipeline has no ${name} to encode pictures with: call load_ip_adapter with an \`image_encoder_folder\`, assign ` +
      "one, or pass `ip_adapter_image_embeds`.",
    { field: name, found: "null", expected: `a ${name}` },
  );
}

function noImage(count: number): ValueError {
  return new ValueError(
    `The UNet has ${count} IP-Adapters, but neither \`ip_adapter_image\` nor \`ip_adapter_image_embeds\` was given: pass one of ` +
      "them, or call unload_ip_adapter().",
    { field: "ip_adapter_image", found: "nothing", expected: `${count}, one for each IP-Adapter` },
  );
}

function wrongCount(field: string, given: readonly unknown[], count: number): ValueError {
  const advice =
    count === 0
      ? "load_ip_adapter() comes first."
      : `Pass a list of one entry for each; several pictures for one adapter are a list in it, as [[first, second]].`;
  const found = `${given.length}`;
  return new ValueError(`\`${field}\` has ${found} entries, but the UNet has ${count} IP-Adapters. ${advice}`, {
    field,
    found,
    expected: `${count}, one for each IP-Adapter`,
  });
}

function wantsFace(i: number): ValueError {
  return new ValueError(
    `IP-Adapter ${i} is one for faces (FaceID), which takes the embeddings of a face recogniser: pass \`ip_adapter_image_embeds\`.`,
    { field: "ip_adapter_image", found: "a picture", expected: "ip_adapter_image_embeds" },
  );
}

/** Negative and positive embeddings. */
function halves(embeds: Tensor, i: number): readonly [Tensor, Tensor] {
  const rows = embeds.dims[0]!;
  if (rows >= 2 && rows % 2 === 0) return embeds.chunk(2) as [Tensor, Tensor];
  throw new ValueError(
    `\`ip_adapter_image_embeds[${i}]\` is [${embeds.dims}], but with guidance it must have the negative ones first, and as ` +
      "many of both: [2, pictures, width].",
    { field: "ip_adapter_image_embeds", found: `[${embeds.dims}]`, expected: "[2, pictures, width]" },
  );
}

/** @throws ValueError for embeddings of another image encoder than the adapter's. */
function checkWidth(embeds: Tensor, { takes, dim }: IPAdapterInput, field: string): void {
  const rank = takes === "hidden_states" ? 4 : 3;
  // One embedding may be a sequence of one.
  const fits = embeds.dims.length === rank || (rank === 3 && embeds.dims[2] === 1);
  if (fits && embeds.dims.at(-1) === dim) return;
  const expected = rank === 4 ? `[..., pictures, length, ${dim}]` : `[..., pictures, ${dim}]`;
  const isEncoded = field.startsWith("ip_adapter_image[");
  throw new ValueError(
    isEncoded
      ? `The image encoder gives embeddings of width ${embeds.dims.at(-1)}, but the IP-Adapter takes ${dim}: it is for another ` +
          "one. Load it with the `image_encoder_folder` that it was made with, after unload_ip_adapter()."
      : `\`${field}\` is [${embeds.dims}], but its IP-Adapter takes ${expected}.`,
    { field: isEncoded ? "image_encoder" : "ip_adapter_image_embeds", found: `[${embeds.dims}]`, expected },
  );
}
