import { type Scheduler, Tensor } from "@diffusers-web/core";
import type { AdditionalResiduals } from "@diffusers-web/models";
import { type ControlNet, type ControlSettings, scalesAt } from "./control_options.ts";

/** The part of a pipeline that runs ControlNets. */
export interface ControlParts {
  readonly controlnet: ControlNet;
  readonly scheduler: Scheduler;
  readonly do_classifier_free_guidance: boolean;
}

/** What a step gives to the ControlNets. */
export interface ControlInputs {
  /** `[batch, channels, height, width]` */
  readonly latents: Tensor;
  readonly t: number;
  /** With guidance, those without the prompt first. */
  readonly prompt_embeds: Tensor;
  /** For each net, what `prepareControlImages` gave. */
  readonly images: readonly Tensor[];
  /** Of Stable Diffusion XL; with guidance, what belongs to no prompt first. */
  readonly added_cond_kwargs?: { readonly text_embeds: Tensor; readonly time_ids: Tensor };
}

/** What a UNet adds to its feature maps. */
export interface ControlResiduals extends Required<Omit<AdditionalResiduals, "down_intrablock_additional_residuals">> {}

/**
 * What the ControlNets give in each step of a run.
 *
 * @param steps how many steps the run has
 * @see Diffusers `StableDiffusionControlNetPipeline.__call__`
 */
export function controlSteps(
  parts: ControlParts,
  settings: ControlSettings,
  steps: number,
): (i: number, inputs: ControlInputs) => Promise<ControlResiduals> {
  const { guess_mode } = settings;
  let last: { readonly dims: string; readonly isSilent: boolean; readonly residuals: ControlResiduals } | undefined;

  return async (i, { latents, t, prompt_embeds, images, added_cond_kwargs }) => {
    const { controlnet, scheduler, do_classifier_free_guidance } = parts;
    // In guess mode the nets see the half with the prompt only.
    const isHalf = guess_mode && do_classifier_free_guidance;
    const expanded = do_classifier_free_guidance && !isHalf ? Tensor.cat([latents, latents]) : latents;
    const conditioning_scale = scalesAt(settings, i, steps);

    // Where no net counts none is run: zeros are fed, since without residuals the UNet would be another graph.
    const isSilent = conditioning_scale.every((scale) => scale === 0);
    const dims = expanded.dims.join();
    if (isSilent && last?.dims === dims) {
      if (!last.isSilent) last = { dims, isSilent, residuals: mapped(last.residuals, (one) => Tensor.zeros(one.dims)) };
      return last.residuals;
    }

    const seen = (both: Tensor): Tensor => (isHalf ? both.chunk(2)[1]! : both);
    const sample = scheduler.scale_model_input(expanded, t);
    const text = seen(prompt_embeds);
    const options = {
      guess_mode,
      added_cond_kwargs: added_cond_kwargs && {
        text_embeds: seen(added_cond_kwargs.text_embeds),
        time_ids: seen(added_cond_kwargs.time_ids),
      },
    };
    const given =
      "nets" in controlnet
        ? await controlnet(sample, t, text, images, { ...options, conditioning_scale })
        : await controlnet(sample, t, text, images[0]!, { ...options, conditioning_scale: conditioning_scale[0] });
    const residuals = {
      down_block_additional_residuals: given.down_block_res_samples,
      mid_block_additional_residual: given.mid_block_res_sample,
    };
    // The half without the prompt is left as it is.
    const whole = isHalf ? mapped(residuals, (one) => Tensor.cat([Tensor.zeros(one.dims), one])) : residuals;
    last = { dims, isSilent, residuals: whole };
    return whole;
  };
}

function mapped(residuals: ControlResiduals, change: (one: Tensor) => Tensor): ControlResiduals {
  return {
    down_block_additional_residuals: residuals.down_block_additional_residuals.map(change),
    mid_block_additional_residual: change(residuals.mid_block_additional_residual),
  };
}
