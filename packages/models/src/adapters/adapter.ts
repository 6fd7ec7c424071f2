import { configDefaults, type Tensor, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import { conv2d } from "../layers/conv.ts";
import { type FeatureMap, mapOutput } from "../layers/layout.ts";
import { unshuffledInput } from "../layers/pixel_unshuffle.ts";
import { ModelMixin } from "../modeling_utils.ts";
import { checkSample } from "../unets/inputs.ts";
import { type AdapterBlockOptions, adapterBlock, lightAdapterBlock } from "./adapter_blocks.ts";

/** The config of a {@link T2IAdapter}: the arguments of Diffusers' `__init__`, under their names. */
export interface T2IAdapterConfig {
  /** Channels of the picture that conditions; 1 for a gray one. */
  in_channels: number;
  /** Channels of the features, block by block. */
  channels: readonly number[];
  /** Residual blocks of each block. */
  num_res_blocks: number;
  /** The side of the squares of pixels that become channels first. */
  downscale_factor: number;
  /** full_adapter, full_adapter_xl or light_adapter. */
  adapter_type: string;
}

export interface T2IAdapter {
  /** {@link T2IAdapter.forward} */
  (x: Tensor): Promise<Tensor[]>;
}

const name = "T2IAdapter";

/**
 * Says what a UNet2DConditionModel is to add to its feature maps (`down_intrablock_additional_residuals`), so that the
 * picture follows another one; of a picture alone, so that one call serves all steps.
 *
 * @see Diffusers `T2IAdapter`
 */
export class T2IAdapter extends ModelMixin<T2IAdapterConfig> {
  static override readonly name: string = "T2IAdapter";
  static override readonly config_defaults: T2IAdapterConfig = configDefaults<T2IAdapterConfig>({
    in_channels: 3,
    channels: [320, 640, 1280, 1280],
    num_res_blocks: 2,
    downscale_factor: 8,
    adapter_type: "full_adapter",
  });

  /** @throws UnsupportedModelError for an `adapter_type` that there is not. */
  constructor(config: Partial<T2IAdapterConfig> = {}) {
    super(config);
    checkConfig(this.config);
  }

  /** How many pixels of a picture's row one value of the smallest feature stands for. */
  get total_downscale_factor(): number {
    const { adapter_type, channels, downscale_factor } = this.config;
    if (adapter_type === "full_adapter_xl") return downscale_factor * 2;
    return downscale_factor * 2 ** (adapter_type === "light_adapter" ? channels.length : channels.length - 1);
  }

  /** What a picture's height and width have to be multiples of. */
  get downscale_factor(): number {
    return this.config.downscale_factor;
  }

  /**
   * @param x pictures in 0..1, `[batch, in_channels, height, width]`, of a height and width that are multiples of
   * `downscale_factor`
   * @returns a feature map for each block, the largest first: a size of `height / downscale_factor` and smaller
   * @throws ValueError for another number of channels, or another size.
   */
  override async forward(x: Tensor): Promise<Tensor[]> {
    checkSample(x, this.config.in_channels, name, "x");
    this.checkSize(x);
    const session = await this.session("forward", x.dims, (g) => this.build(g, x.dims));
    const outputs = await session.run({ x });
    return this.blocks.map((_, i) => outputs[`feature_${i}`]!);
  }

  protected override check(build: (emit: (g: GraphBuilder) => void) => void): void {
    const { in_channels, downscale_factor: size } = this.config;
    build((g) => this.build(g, [1, in_channels, size, size]));
  }

  private build(g: GraphBuilder, dims: readonly number[]): void {
    const { adapter_type, channels, downscale_factor } = this.config;
    const isLight = adapter_type === "light_adapter";
    let x: FeatureMap = unshuffledInput(g, "x", dims, downscale_factor);
    if (!isLight) x = conv2d(g, x, "adapter.conv_in", channels[0]!);
    const block = isLight ? lightAdapterBlock : adapterBlock;
    this.blocks.forEach((options, i) => {
      x = block(g, x, `adapter.body.${i}`, options);
      mapOutput(g, `feature_${i}`, x);
    });
  }

  private get blocks(): readonly AdapterBlockOptions[] {
    const { adapter_type, channels, num_res_blocks: layers } = this.config;
    switch (adapter_type) {
      case "full_adapter_xl":
        // Features of the sizes of SDXL's way down: one halving.
        return channels.map((out, i) => ({ out, layers, down: i === 2 }));
      case "light_adapter":
        return [...channels, channels.at(-1)!].map((out, i) => ({ out, layers, down: i > 0 }));
      default:
        return channels.map((out, i) => ({ out, layers, down: i > 0 }));
    }
  }

  private checkSize(x: Tensor): void {
    const factor = this.downscale_factor;
    const [height, width] = x.dims.slice(2) as [number, number];
    if (height % factor === 0 && width % factor === 0) return;
    throw new ValueError(
      `${name} takes pictures whose height and width are multiples of ${factor}, but got ${height}x${width}. ` +
        `Resize the picture, best to multiples of ${this.total_downscale_factor}.`,
      { className: name, field: "x", found: `${height}x${width}`, expected: `multiples of ${factor}` },
    );
  }
}

function checkConfig(config: Readonly<T2IAdapterConfig>): void {
  checkValue(name, "adapter_type", config.adapter_type, ["full_adapter", "full_adapter_xl", "light_adapter"]);
  const { channels, adapter_type } = config;
  const isCount = (value: unknown, least = 1): boolean => Number.isInteger(value) && (value as number) >= least;
  const check = (field: keyof T2IAdapterConfig, isRight: boolean, expected: string): void => {
    if (isRight) return;
    const found = JSON.stringify(config[field]) ?? "undefined";
    throw new ValueError(`${name} has \`${field}\`: ${found} in its config, but ${expected} is expected.`, {
      className: name,
      field,
      found,
      expected,
    });
  };
  check("in_channels", isCount(config.in_channels), "a whole number above 0");
  check("downscale_factor", isCount(config.downscale_factor), "a whole number above 0");
  check("num_res_blocks", isCount(config.num_res_blocks, 0), "a whole number");
  // A light adapter works on a quarter of them.
  const least = adapter_type === "light_adapter" ? 4 : 1;
  const isList = Array.isArray(channels) && channels.length > 0 && channels.every((count) => isCount(count, least));
  check("channels", isList, `a list of whole numbers from ${least} on`);
  const isSame = adapter_type !== "full_adapter_xl" || channels.slice(3).every((count) => count === channels[2]);
  check("channels", isSame, 'the third number again from the fourth on (`adapter_type` is "full_adapter_xl")');
}
