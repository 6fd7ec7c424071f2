import { Tensor, UnsupportedModelError } from "@diffusers-web/core";
import { ModelMixin } from "../modeling_utils.ts";

/**
 * What autoencoders have in common: working on pictures piece by piece, so that larger ones fit into memory.
 *
 * @see Diffusers `AutoencoderMixin`
 */
export abstract class AutoencoderMixin<C extends object> extends ModelMixin<C> {
  static override readonly name: string = "AutoencoderMixin";

  /** Whether pictures larger than a tile are worked on in tiles; undefined for a class that does not tile. */
  use_tiling: boolean | undefined = undefined;
  /** Whether the items of a batch are worked on one by one; undefined for a class that does not slice. */
  use_slicing: boolean | undefined = undefined;

  /**
   * From now on, works on pictures larger than a tile in overlapping tiles, blended together: memory then depends on the
   * tile's size. The result differs a little from that of the whole.
   *
   * @param use_tiling false: as {@link disable_tiling}
   * @throws UnsupportedModelError for a class that Diffusers does not tile either.
   */
  enable_tiling(use_tiling = true): void {
    if (this.use_tiling === undefined) throw this.notImplemented("Tiling", "enable_tiling");
    this.use_tiling = use_tiling;
  }

  /** Works on pictures as a whole again. */
  disable_tiling(): void {
    if (this.use_tiling !== undefined) this.use_tiling = false;
  }

  /**
   * From now on, works on the items of a batch one by one, with the same result.
   *
   * @throws UnsupportedModelError for a class that Diffusers does not slice either.
   */
  enable_slicing(): void {
    if (this.use_slicing === undefined) throw this.notImplemented("Slicing", "enable_slicing");
    this.use_slicing = true;
  }

  /** Works on a batch as a whole again. */
  disable_slicing(): void {
    if (this.use_slicing !== undefined) this.use_slicing = false;
  }

  /** Runs a batch, item by item with `use_slicing`. */
  protected async sliced(x: Tensor, run: (x: Tensor) => Promise<Tensor>): Promise<Tensor> {
    const batch = x.dims[0]!;
    if (this.use_slicing !== true || batch === 1) return run(x);
    const results: Tensor[] = [];
    for (let i = 0; i < batch; i++) results.push(await run(x.slice([i, i + 1])));
    return Tensor.cat(results);
  }

  private notImplemented(what: string, field: string): UnsupportedModelError {
    const className = this.constructor.name;
    return new UnsupportedModelError(
      `${what} is not implemented for ${className}, as in Diffusers: use a smaller picture or batch.`,
      { className, field, expected: "an autoencoder such as AutoencoderKL" },
    );
  }
}
