import { VaeImageProcessor } from "../image_processor.ts";
import type { OutputType } from "../pipeline_output.ts";
import { StableDiffusionXLBase, type StableDiffusionXLParts } from "../stable_diffusion_xl/stable_diffusion_xl_base.ts";
import { type ControlNetInput, newControlImageProcessor, oneControlNet, withControlNet } from "./control_component.ts";
import type { ControlNet } from "./control_options.ts";

/** What a pipeline of Stable Diffusion XL with a ControlNet is built of. */
export interface StableDiffusionXLControlNetParts extends StableDiffusionXLParts {
  /** One net, or several as a list. */
  readonly controlnet: ControlNetInput | null;
}

/** The same where pictures are started from: the UNet may be a refiner's. */
export interface StableDiffusionXLControlNetImageParts extends StableDiffusionXLControlNetParts {
  /** Whether the UNet is told aesthetic scores in place of the target size, as the refiner is. Default false. */
  readonly requires_aesthetics_score?: boolean;
}

export interface StableDiffusionXLControlNetBase {
  controlnet: ControlNet;
}

/** What the pipelines of Stable Diffusion XL with a ControlNet have in common. */
export abstract class StableDiffusionXLControlNetBase extends StableDiffusionXLBase {
  static override readonly name: string = "StableDiffusionXLControlNetBase";
  static override readonly component_names: readonly string[] = withControlNet(StableDiffusionXLBase.component_names);
  /** Whether pictures to start from are made RGB; else they have to be so. */
  static readonly converts_to_rgb: boolean = true;

  override readonly image_processor: VaeImageProcessor;
  /** Prepares what the nets follow. */
  readonly control_image_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionXLControlNetParts) {
    super(parts);
    this.register_modules({ controlnet: oneControlNet(parts.controlnet, this.constructor.name) });
    const { vae_scale_factor } = this;
    this.image_processor = new VaeImageProcessor({ vae_scale_factor, do_convert_rgb: new.target.converts_to_rgb });
    this.control_image_processor = newControlImageProcessor(vae_scale_factor);
  }

  protected override checkRunParts(output_type: OutputType): void {
    super.checkRunParts(output_type);
    this.checkParts(["controlnet"]);
    // A list may have been assigned.
    const controlnet = oneControlNet(this.controlnet, this.constructor.name)!;
    if (controlnet !== this.controlnet) this.controlnet = controlnet;
  }
}
