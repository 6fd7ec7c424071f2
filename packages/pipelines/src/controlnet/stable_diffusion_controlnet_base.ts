import { VaeImageProcessor } from "../image_processor.ts";
import type { OutputType } from "../pipeline_output.ts";
import type { OutdatedField } from "../stable_diffusion/old_configs.ts";
import { StableDiffusionBase, type StableDiffusionParts } from "../stable_diffusion/stable_diffusion_base.ts";
import { type ControlNetInput, newControlImageProcessor, oneControlNet, withControlNet } from "./control_component.ts";
import type { ControlNet } from "./control_options.ts";

/** What a pipeline of Stable Diffusion with a ControlNet is built of. */
export interface StableDiffusionControlNetParts extends StableDiffusionParts {
  /** One net, or several as a list. */
  readonly controlnet: ControlNetInput | null;
}

export interface StableDiffusionControlNetBase {
  controlnet: ControlNet;
}

/** What the pipelines of Stable Diffusion 1.x and 2.x with a ControlNet have in common. */
export abstract class StableDiffusionControlNetBase extends StableDiffusionBase {
  static override readonly name: string = "StableDiffusionControlNetBase";
  static override readonly component_names: readonly string[] = withControlNet(StableDiffusionBase.component_names);
  static override readonly outdated_fields: readonly OutdatedField[] = [];

  /** Whether pictures to start from are made RGB; else they have to be so. */
  static readonly converts_to_rgb: boolean = true;

  override readonly image_processor: VaeImageProcessor;
  /** Prepares what the nets follow. */
  readonly control_image_processor: VaeImageProcessor;

  constructor(parts: StableDiffusionControlNetParts) {
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
