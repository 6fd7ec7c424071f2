import { type RandnTensorOptions, randn_tensor, Tensor } from "@diffusers-web/core";

/**
 * A normal distribution per latent value, as an encoder predicts it.
 *
 * @see Diffusers `DiagonalGaussianDistribution`
 */
export class DiagonalGaussianDistribution {
  /** `[batch, latent_channels, height, width]` */
  readonly mean: Tensor;
  /** The logarithm of the variance, within -30 and 20. */
  readonly logvar: Tensor;
  readonly std: Tensor;
  readonly var: Tensor;

  /** @param parameters mean and log variance, `[batch, 2 * latent_channels, height, width]` */
  constructor(parameters: Tensor) {
    const [mean, logvar] = parameters.chunk(2, 1) as [Tensor, Tensor];
    this.mean = mean;
    this.logvar = logvar.clamp(-30, 20);
    this.std = exponential(this.logvar, 0.5);
    this.var = exponential(this.logvar, 1);
  }

  /**
   * A random value of the distribution.
   *
   * @param generator where the noise comes from; a list has one for each batch item. Default: a random seed
   */
  sample(generator?: RandnTensorOptions["generator"]): Tensor {
    const noise = randn_tensor(this.mean.dims, { generator });
    return this.mean.add(this.std.mul(noise));
  }

  /** The most likely value. */
  mode(): Tensor {
    return this.mean;
  }
}

/** `exp(factor * x)` */
function exponential(x: Tensor, factor: number): Tensor {
  return new Tensor(
    "float32",
    Float32Array.from(x.data, (value) => Math.exp(Math.fround(value * factor))),
    x.dims,
  );
}
