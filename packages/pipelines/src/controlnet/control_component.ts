import { UnsupportedModelError } from "@diffusers-web/core";
import { type ControlNetModel, MultiControlNetModel } from "@diffusers-web/models";
import { VaeImageProcessor } from "../image_processor.ts";
import type { ControlNet } from "./control_options.ts";

/** What a pipeline takes for its `controlnet`: one net, or several. */
export type ControlNetInput = ControlNet | readonly ControlNetModel[];

/** A pipeline's components with a ControlNet among them, in the order of Python's signature. */
export function withControlNet(component_names: readonly string[]): readonly string[] {
  return component_names.flatMap((name) => (name === "unet" ? [name, "controlnet"] : [name]));
}

/**
 * What a pipeline keeps as its `controlnet`: several nets as one.
 *
 * @throws UnsupportedModelError for a model of another class.
 */
export function oneControlNet(controlnet: ControlNetInput | null, className: string): ControlNet | null {
  if (controlnet === null) return null;
  const nets = "nets" in controlnet ? controlnet.nets : Array.isArray(controlnet) ? controlnet : [controlnet];
  for (const net of nets) {
    const found = (net as object).constructor.name;
    if (found === "ControlNetModel") continue;
    throw new UnsupportedModelError(
      `${className} takes a ControlNetModel, a list of them or a MultiControlNetModel as its controlnet, but got ${found}.`,
      { className, field: "controlnet", found, expected: "ControlNetModel" },
    );
  }
  return Array.isArray(controlnet) ? new MultiControlNetModel(controlnet) : (controlnet as ControlNet);
}

/**
 * What prepares the pictures that ControlNets follow: RGB, in 0..1.
 *
 * @param vae_scale_factor pixels for each latent, along one side
 */
export function newControlImageProcessor(vae_scale_factor: number): VaeImageProcessor {
  return new VaeImageProcessor({ vae_scale_factor, do_convert_rgb: true, do_normalize: false });
}
