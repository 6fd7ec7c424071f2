import { type ConfigDict, checkOptions, type Tensor, ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { mapInput } from "../layers/layout.ts";
import { linear } from "../layers/linear.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { checkSample } from "../unets/inputs.ts";
import { hiddenStates, statesOutput, tokensOutput } from "./clip_outputs.ts";
import {
  type CLIPVisionConfig,
  checkCLIPVisionConfig,
  clipVisionDefaults,
  clipVisionStrangers,
  clipVisionTransformer,
  prepareCLIPVisionConfig,
  readPositions,
  resizePositions,
} from "./clip_vision.ts";

/** Options of {@link CLIPVisionModel.forward} and {@link CLIPVisionModelWithProjection.forward}. */
export interface CLIPVisionOptions {
  /** Takes pictures of any size, with the table of positions resized to them. Default false. */
  readonly interpolate_pos_encoding?: boolean | undefined;
  /** Whether `hidden_states` is wanted, which takes time to read from a GPU. Default true. */
  readonly output_hidden_states?: boolean | undefined;
}

interface VisionOutput {
  /** The last layer's output, not normalised: `[batch, patches + 1, hidden_size]`, the class token first. */
  readonly last_hidden_state: Tensor;
  /**
   * What enters the first layer, then the output of each layer: `num_hidden_layers + 1` tensors, or none without
   * `output_hidden_states`.
   */
  readonly hidden_states: readonly Tensor[];
}

/** What a {@link CLIPVisionModel} gives. */
export interface CLIPVisionModelOutput extends VisionOutput {
  /** The class token, normalised: `[batch, hidden_size]`. */
  readonly pooler_output: Tensor;
}

/** What a {@link CLIPVisionModelWithProjection} gives. */
export interface CLIPVisionModelWithProjectionOutput extends VisionOutput {
  /** The class token, normalised and projected: `[batch, projection_dim]`. */
  readonly image_embeds: Tensor;
}

/** All that an image encoder's graph depends on. */
interface VisionKey {
  readonly dims: readonly number[];
  readonly wantsLayers: boolean;
  readonly isResized: boolean;
}

/** What both classes do: they differ in what they make of the pooled output. */
abstract class CLIPVisionMixin extends ModelMixin<CLIPVisionConfig> {
  static override readonly weights_name: string = "model";
  static override readonly keys_to_ignore: readonly RegExp[] = clipVisionStrangers;
  static override readonly config_defaults: CLIPVisionConfig = clipVisionDefaults;

  // Reads the table of positions, which only pictures of another size ask for; `check` knows where it is.
  private positions: (() => Tensor) | undefined;

  /** @throws UnsupportedModelError or ValueError for a config that is not built or wrong, naming the field. */
  constructor(config: Partial<CLIPVisionConfig> = {}) {
    super(config);
    checkCLIPVisionConfig(this.constructor.name, this.config);
  }

  /** Emits what the class makes of the pooled output, and makes it an output of the graph. */
  protected abstract head(g: GraphBuilder, pooled: Value): void;

  protected async encode(pixel_values: Tensor, options: CLIPVisionOptions): Promise<Record<string, Tensor>> {
    const className = this.constructor.name;
    checkOptions(className, options, ["interpolate_pos_encoding", "output_hidden_states"]);
    const { num_channels, image_size, patch_size } = this.config;
    checkSample(pixel_values, num_channels, className, "pixel_values");
    const [, , height, width] = pixel_values.dims as [number, number, number, number];
    const isOwnSize = height === image_size && width === image_size;
    const interpolates = options.interpolate_pos_encoding ?? false;
    if (!isOwnSize && (!interpolates || Math.min(height, width) < patch_size)) {
      const expected = interpolates ? `at least ${patch_size}x${patch_size}` : `${image_size}x${image_size}`;
      const advice = interpolates ? "" : " Resize it, or pass { interpolate_pos_encoding: true }.";
      throw new ValueError(
        `${className} takes pictures of ${expected} (height x width), but \`pixel_values\` has ${height}x${width}.${advice}`,
        { className, field: "pixel_values", found: `${height}x${width}`, expected },
      );
    }
    const key = {
      dims: pixel_values.dims,
      wantsLayers: options.output_hidden_states ?? true,
      isResized: !isOwnSize,
    };
    const feeds: Record<string, Tensor> = { pixel_values };
    if (key.isResized) {
      const [rows, columns] = [Math.floor(height / patch_size), Math.floor(width / patch_size)];
      feeds["positions"] = resizePositions(this.positionTable(), rows, columns);
    }
    const session = await this.session("forward", key, (g) => this.build(g, key));
    return session.run(feeds);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { num_channels, image_size } = this.config;
    const dims = [1, num_channels, image_size, image_size];
    build((g) => {
      this.build(g, { dims, wantsLayers: true, isResized: false });
      this.positions = () => readPositions(g, visionPrefix(g), this.config);
    });
  }

  private positionTable(): Tensor {
    // Throws when there are no weights to read from, or no longer.
    void this.device;
    return this.positions!();
  }

  private build(g: GraphBuilder, { dims, wantsLayers, isResized }: VisionKey): void {
    const { patch_size, hidden_size } = this.config;
    const pixels = mapInput(g, "pixel_values", dims);
    const patches = Math.floor(pixels.height / patch_size) * Math.floor(pixels.width / patch_size);
    const positions = isResized ? g.input("positions", [patches + 1, hidden_size]) : undefined;
    const states = clipVisionTransformer(g, visionPrefix(g), this.config, pixels, positions);
    if (wantsLayers) statesOutput(g, states.hidden_states);
    tokensOutput(g, "last_hidden_state", states.last_hidden_state);
    this.head(g, states.pooled);
  }
}

/** CLIPVisionModel's files have no prefix from transformers 5 on; all others have one. */
function visionPrefix(g: GraphBuilder): string {
  return g.has("vision_model.embeddings.class_embedding") ? "vision_model." : "";
}

export interface CLIPVisionModel {
  /** {@link CLIPVisionModel.forward} */
  (pixel_values: Tensor, options?: CLIPVisionOptions): Promise<CLIPVisionModelOutput>;
}

/**
 * CLIP's image encoder.
 *
 * Reads files of the image encoder alone, and of a whole CLIP.
 *
 * @see transformers `CLIPVisionModel`
 */
export class CLIPVisionModel extends CLIPVisionMixin {
  static override readonly name: string = "CLIPVisionModel";
  static override readonly keys_to_ignore: readonly RegExp[] = [...clipVisionStrangers, /^visual_projection\./];

  /** The image encoder's part of a whole CLIP's config; without what transformers writes into every config. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    return prepareCLIPVisionConfig(config, "CLIPVisionModel");
  }

  /**
   * @param pixel_values `[batch, num_channels, image_size, image_size]`, normalised as preprocessor_config.json says
   * @throws ValueError for a picture of another size, unless `interpolate_pos_encoding` is set.
   */
  override async forward(pixel_values: Tensor, options: CLIPVisionOptions = {}): Promise<CLIPVisionModelOutput> {
    const outputs = await this.encode(pixel_values, options);
    return {
      last_hidden_state: outputs["last_hidden_state"]!,
      hidden_states: hiddenStates(outputs),
      pooler_output: outputs["pooler_output"]!,
    };
  }

  protected override head(g: GraphBuilder, pooled: Value): void {
    g.output("pooler_output", pooled);
  }
}

export interface CLIPVisionModelWithProjection {
  /** {@link CLIPVisionModelWithProjection.forward} */
  (pixel_values: Tensor, options?: CLIPVisionOptions): Promise<CLIPVisionModelWithProjectionOutput>;
}

/**
 * CLIP's image encoder, and the projection to where pictures and texts can be compared: what IP-Adapters and image
 * variations look through.
 *
 * Reads files of the image encoder alone, and of a whole CLIP.
 *
 * @see transformers `CLIPVisionModelWithProjection`
 */
export class CLIPVisionModelWithProjection extends CLIPVisionMixin {
  static override readonly name: string = "CLIPVisionModelWithProjection";

  /** The image encoder's part of a whole CLIP's config; without what transformers writes into every config. */
  static override prepare_config(config: ConfigDict): ConfigDict {
    return prepareCLIPVisionConfig(config, "CLIPVisionModelWithProjection");
  }

  /**
   * @param pixel_values `[batch, num_channels, image_size, image_size]`, normalised as preprocessor_config.json says
   * @throws ValueError for a picture of another size, unless `interpolate_pos_encoding` is set.
   */
  override async forward(
    pixel_values: Tensor,
    options: CLIPVisionOptions = {},
  ): Promise<CLIPVisionModelWithProjectionOutput> {
    const outputs = await this.encode(pixel_values, options);
    return {
      image_embeds: outputs["image_embeds"]!,
      last_hidden_state: outputs["last_hidden_state"]!,
      hidden_states: hiddenStates(outputs),
    };
  }

  protected override head(g: GraphBuilder, pooled: Value): void {
    g.output("image_embeds", linear(g, pooled, "visual_projection", this.config.projection_dim, { bias: false }));
  }
}
