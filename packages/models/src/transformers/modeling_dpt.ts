import {
  type ConfigDict,
  ConfigMixin,
  ModelNotFoundError,
  openSource,
  type SourceLike,
  sourceName,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import { mapInput } from "../layers/layout.ts";
import {
  type ConfigOf,
  type ModelClass,
  type ModelLoadOptions,
  ModelMixin,
  type PreparedModel,
} from "../modeling_utils.ts";
import type { ORTDepthEstimator } from "../onnx/dpt_export.ts";
import type { DeviceInfo, DeviceRequest, DtypeRequest } from "../runtime/device.ts";
import { type DPTConfig, type DPTLayout, dptDefaults, prepareDptConfig, readDptConfig } from "./dpt_config.ts";
import { dptHead, dptNeck } from "./dpt_neck.ts";
import { dptModel } from "./dpt_vit.ts";

export type { DPTConfig } from "./dpt_config.ts";

/** What a {@link DPTForDepthEstimation} gives. */
export interface DepthEstimatorOutput {
  /** The larger, the nearer (relative, not in metres, for MiDaS' checkpoints): `[batch, height, width]`. */
  readonly predicted_depth: Tensor;
}

export interface DPTForDepthEstimation {
  /** {@link DPTForDepthEstimation.forward} */
  (pixel_values: Tensor): Promise<DepthEstimatorOutput>;
}

const name = "DPTForDepthEstimation";

/**
 * A dense prediction transformer that estimates depth, with an encoder of its own (Intel/dpt-large) or on top of a BiT
 * backbone (Intel/dpt-hybrid-midas, the depth estimator of Stable Diffusion 2 depth).
 *
 * @see transformers `DPTForDepthEstimation`
 */
export class DPTForDepthEstimation extends ModelMixin<DPTConfig> {
  static override readonly name: string = "DPTForDepthEstimation";
  static override readonly weights_name: string = "model";
  static override readonly config_defaults: DPTConfig = dptDefaults;
  static override readonly keys_to_ignore: readonly RegExp[] = [
    // The norm of an output that depth is not made of, a branch that the first fusion does not have, and counters.
    /^dpt\.layernorm\./,
    /^dpt\.embeddings\.backbone\.bit\.norm\./,
    /^neck\.fusion_stage\.layers\.0\.residual_layer1\./,
    /\.num_batches_tracked$/,
  ];

  private readonly layout: DPTLayout;

  /**
   * @throws UnsupportedModelError for a config field whose value is not built, naming it.
   * @throws ValueError for a config that transformers refuses, too.
   */
  constructor(config: Partial<DPTConfig> = {}) {
    super(config);
    this.layout = readDptConfig(this.config);
  }

  static override prepare_config(config: ConfigDict): ConfigDict {
    return prepareDptConfig(config);
  }

  /**
   * Loads a model, as `ModelMixin.from_pretrained` does. From a repository that has no safetensors, its ONNX export:
   * `onnx/model.onnx` as transformers.js has it, or `model.onnx` (with `dtype: "fp16"`, `model_fp16.onnx`).
   */
  static override async from_pretrained<T extends ModelMixin<object>>(
    this: ModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions & Partial<ConfigOf<T>> = {},
  ): Promise<T> {
    const prepared = await (DPTForDepthEstimation.prepare<T>).call(this, source, options);
    return prepared.load(options.variant);
  }

  /** @internal */
  static override async prepare<T extends ModelMixin<object>>(
    this: ModelClass<T>,
    source: SourceLike,
    options: ModelLoadOptions & Partial<ConfigOf<T>> = {},
  ): Promise<PreparedModel<T>> {
    const exported = async (variant: string | undefined, error: unknown, onlyListed: boolean): Promise<T> => {
      if (!(error instanceof ModelNotFoundError || error instanceof UnsupportedModelError)) throw error;
      const config = await ConfigMixin.load_config.call(this, source, options);
      const _name_or_path = sourceName(source, await openSource(source, options));
      const { openDptExport } = await import("../onnx/dpt_export.ts");
      const model = await openDptExport(source, variant, { options, onlyListed });
      if (model === undefined) throw error;
      return DPTExport.over(model, { ...config, _name_or_path }) as unknown as T;
    };
    let prepared: PreparedModel<T>;
    try {
      prepared = await (ModelMixin.prepare<T>).call(this, source, options);
    } catch (error) {
      // An export runs whatever its config says.
      const model = await exported(options.variant, error, true);
      return { load: async () => model };
    }
    return {
      load: async (variant) => {
        try {
          return await prepared.load(variant);
        } catch (error) {
          return exported(variant, error, false);
        }
      },
    };
  }

  /**
   * @param pixel_values `[batch, num_channels, height, width]`, as {@link DPTImageProcessor} makes them. The number of
   *   whole patches has to be a square's: pictures are square, of any size that has a patch (of a hybrid: `image_size`)
   * @returns depth of about the picture's size, twice that of the largest feature map
   * @throws ValueError for pictures of other channels or of another size.
   */
  override async forward(pixel_values: Tensor): Promise<DepthEstimatorOutput> {
    this.checkPixels(pixel_values);
    const { dims } = pixel_values;
    const session = await this.session("forward", dims, (g) => this.build(g, dims));
    const { predicted_depth } = await session.run({ pixel_values });
    return { predicted_depth: predicted_depth! };
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    build((g) => {
      this.build(g, [1, this.config.num_channels, ...this.layout.imageSize]);
      this.passOver(g);
    });
  }

  private build(g: GraphBuilder, dims: readonly number[]): void {
    const { config, layout } = this;
    const states = dptModel(g, mapInput(g, "pixel_values", dims), config, layout);
    g.output("predicted_depth", dptHead(g, dptNeck(g, states, config, layout), config));
  }

  /** Tensors that belong to the model, but that the depth is not made of. */
  private passOver(g: GraphBuilder): void {
    const { layers, backbone, fused } = this.layout;
    const { num_hidden_layers, neck_hidden_sizes } = this.config;
    const stages = neck_hidden_sizes.length;
    const ranges: readonly [pattern: RegExp, begin: number, end: number][] = [
      [/^dpt\.encoder\.layer\.(\d+)\./, (layers.at(-1) ?? -1) + 1, num_hidden_layers],
      [
        /^dpt\.embeddings\.backbone\.bit\.encoder\.stages\.(\d+)\./,
        backbone?.outputs.at(-1) ?? 0,
        backbone?.depths.length ?? 0,
      ],
      [/^neck\.fusion_stage\.layers\.(\d+)\./, fused + 1, stages],
      [/^neck\.(?:convs|reassemble_stage\.layers|reassemble_stage\.readout_projects)\.(\d+)\./, 0, stages - 1 - fused],
    ];
    for (const tensor of g.weights.names()) {
      const isPassedOver = ranges.some(([pattern, begin, end]) => {
        const index = Number(pattern.exec(tensor)?.[1] ?? Number.NaN);
        return index >= begin && index < end;
      });
      if (isPassedOver) g.used.add(tensor);
    }
  }

  private checkPixels(pixels: Tensor): void {
    const fail = (message: string, found: string, expected: string): never => {
      throw new ValueError(`${name}: ${message}`, { className: name, field: "pixel_values", found, expected });
    };
    const { config, layout } = this;
    const { imageSize, patchSize } = layout;
    const isPicture = pixels instanceof Tensor && pixels.dims.length === 4 && pixels.size > 0;
    if (!isPicture || pixels.dims[1] !== config.num_channels || pixels.type !== "float32") {
      const found = pixels instanceof Tensor ? `${pixels.type} [${pixels.dims}]` : typeof pixels;
      const expected = `float32 [batch, ${config.num_channels}, height, width]`;
      fail(`\`pixel_values\` must be a Tensor ${expected}, but is ${found}.`, found, expected);
    }
    const [, , height, width] = pixels.dims as [number, number, number, number];
    if (layout.backbone !== undefined && (height !== imageSize[0] || width !== imageSize[1])) {
      fail(
        `a hybrid takes pictures of its \`image_size\` only, ${imageSize.join("x")} (height x width), but got ` +
          `${height}x${width}. Use DPTImageProcessor, or resize them.`,
        `${height}x${width}`,
        imageSize.join("x"),
      );
    }
    const patches = Math.floor(height / patchSize) * Math.floor(width / patchSize);
    if (patches === 0 || !Number.isInteger(Math.sqrt(patches))) {
      fail(
        `a picture of ${height}x${width} (height x width) has ${patches} patches of ${patchSize}x${patchSize}, which ` +
          "is no square's number, as the model needs. Use square pictures.",
        `${height}x${width}`,
        `a square number of patches of ${patchSize}x${patchSize}`,
      );
    }
  }
}

/** A depth estimator whose graph is not built from its config, but was exported. */
class DPTExport extends DPTForDepthEstimation {
  private exported!: ORTDepthEstimator;

  static over(exported: ORTDepthEstimator, config: ConfigDict): DPTExport {
    const model = new DPTExport();
    model.exported = exported;
    // As it is written: what of it could not be built does not matter.
    const own = Object.entries(config).filter(([key]) => key === "_name_or_path" || Object.hasOwn(dptDefaults, key));
    model.register_to_config(Object.fromEntries(own));
    return model;
  }

  override forward(pixel_values: Tensor): Promise<DepthEstimatorOutput> {
    this.exported.before_run = this.before_run;
    return this.exported.forward(pixel_values);
  }

  override get device(): "webgpu" | "wasm" {
    return this.exported.device;
  }

  override get dtype(): "float32" | "float16" {
    return this.exported.dtype;
  }

  override get device_info(): DeviceInfo {
    return this.exported.device_info;
  }

  override async to(target: DeviceRequest | DtypeRequest): Promise<this> {
    await this.exported.to(target);
    return this;
  }

  override offload(): Promise<void> {
    return this.exported.offload();
  }

  override dispose(): Promise<void> {
    return this.exported.dispose();
  }
}
