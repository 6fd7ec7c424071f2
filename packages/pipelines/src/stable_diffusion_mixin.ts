import { UnsupportedModelError } from "@diffusers-web/core";
import type { AttentionSlice, AutoencoderKL, UNet2DConditionModel } from "@diffusers-web/models";
import { DiffusionPipeline } from "./pipeline_utils.ts";

type Switch = "enable_slicing" | "disable_slicing" | "enable_tiling" | "disable_tiling";

/**
 * What pipelines with an autoencoder and a UNet have in common.
 *
 * @see Diffusers `StableDiffusionMixin`
 */
export abstract class StableDiffusionMixin extends DiffusionPipeline {
  static override readonly name: string = "StableDiffusionMixin";
  static override readonly component_types: Readonly<Record<string, readonly string[]>> = {
    unet: ["UNet2DConditionModel", "ORTUnet"],
  };

  /**
   * Decodes the pictures of a call one by one: less memory, the same pictures.
   *
   * @throws ValueError without an autoencoder, UnsupportedModelError for one that does not slice.
   * @see Diffusers `AutoencoderKL.enable_slicing`
   */
  enable_vae_slicing(): void {
    this.switchVae("enable_slicing");
  }

  /** Decodes the pictures of a call together again. */
  disable_vae_slicing(): void {
    this.switchVae("disable_slicing");
  }

  /**
   * Decodes and encodes large pictures in overlapping tiles, blended together: memory then depends on the tiles' size, and
   * pictures may be larger. They differ a little from those made as a whole.
   *
   * @throws ValueError without an autoencoder, UnsupportedModelError for one that does not tile.
   * @see Diffusers `AutoencoderKL.enable_tiling`
   */
  enable_vae_tiling(): void {
    this.switchVae("enable_tiling");
  }

  /** Decodes and encodes pictures as a whole again. */
  disable_vae_tiling(): void {
    this.switchVae("disable_tiling");
  }

  /**
   * Computes the UNet's attention in steps: less memory, the same pictures.
   *
   * @param slice_size "auto": half of the heads at a time; "max": one at a time; or how many; null: all at once again
   * @throws ValueError for a number above the heads of one of the attentions.
   * @throws UnsupportedModelError for a UNet that cannot.
   * @see Diffusers `DiffusionPipeline.enable_attention_slicing`
   */
  enable_attention_slicing(slice_size: AttentionSlice | null = "auto"): void {
    this.unetWith("set_attention_slice").set_attention_slice(slice_size);
  }

  /** Computes the UNet's attention at once again. @see Diffusers `DiffusionPipeline.disable_attention_slicing` */
  disable_attention_slicing(): void {
    this.enable_attention_slicing(null);
  }

  /**
   * Computes the UNet's batch (with guidance two items for each picture) in parts: many pictures in a call then take no more memory
   * than few. The same pictures. Not with perturbed-attention guidance, whose batch runs as a whole.
   *
   * @param slice_size at most so many items at a time; "auto": all at once, and fewer from when the device fails at it
   * @throws ValueError for another value, UnsupportedModelError for a UNet that cannot.
   */
  enable_unet_slicing(slice_size: number | "auto" = "auto"): void {
    this.unetWith("set_batch_slice").set_batch_slice(slice_size);
  }

  /** Computes the UNet's batch at once again. */
  disable_unet_slicing(): void {
    this.unetWith("set_batch_slice").set_batch_slice(null);
  }

  /**
   * Weighs the UNet's features anew: see `UNet2DConditionModel.enable_freeu`.
   *
   * @throws ValueError for what is no number.
   * @throws UnsupportedModelError for a UNet that cannot.
   * @see Diffusers `StableDiffusionMixin.enable_freeu`
   */
  enable_freeu(s1: number, s2: number, b1: number, b2: number): void {
    this.unetWith("enable_freeu").enable_freeu(s1, s2, b1, b2);
  }

  /** @see Diffusers `StableDiffusionMixin.disable_freeu` */
  disable_freeu(): void {
    this.unetWith("disable_freeu").disable_freeu();
  }

  private unetWith(
    method: "set_attention_slice" | "set_batch_slice" | "enable_freeu" | "disable_freeu",
  ): UNet2DConditionModel {
    this.checkParts(["unet"]);
    const unet = this.components["unet"] as Partial<UNet2DConditionModel>;
    if (unet[method] !== undefined) return unet as UNet2DConditionModel;
    const className = unet.constructor!.name;
    throw new UnsupportedModelError(
      `This pipeline's unet is an ${className}, whose graph is fixed: it has no ${method}().`,
      { className, field: method, expected: "a UNet2DConditionModel" },
    );
  }

  private switchVae(method: Switch): void {
    this.checkParts(["vae"]);
    const vae = this.components["vae"] as Partial<Pick<AutoencoderKL, Switch>>;
    if (vae[method] === undefined) {
      const className = vae.constructor.name;
      throw new UnsupportedModelError(
        `This pipeline's vae is an ${className}, which works on pictures as a whole: it has no ${method}().`,
        { className, field: method, expected: "an autoencoder such as AutoencoderKL" },
      );
    }
    vae[method]();
  }
}
