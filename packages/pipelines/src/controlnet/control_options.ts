import { ValueError } from "@diffusers-web/core";
import type { ControlNetModel, MultiControlNetModel } from "@diffusers-web/models";
import { checkNumber, checkShare } from "../checks.ts";

/** What a pipeline may have for a `controlnet`. */
export type ControlNet = ControlNetModel | MultiControlNetModel;

/** What a call says of its ControlNets besides their pictures. */
export interface ControlOptions {
  /** What the residuals are multiplied with before the UNet adds them: a number, or one for each net. Default 1. */
  readonly controlnet_conditioning_scale?: number | readonly number[];
  /**
   * Whether the nets are to find out by themselves what their pictures show: only the half of the batch with the prompt
   * sees them, and deep layers count more. Goes well with no prompt and a guidance scale of 3 to 5. Default false.
   */
  readonly guess_mode?: boolean;
  /** The share of the steps after which the nets begin to count, 0 to 1: a number, or one for each net. Default 0. */
  readonly control_guidance_start?: number | readonly number[];
  /** The share of the steps after which the nets no longer count, 0 to 1: a number, or one for each net. Default 1. */
  readonly control_guidance_end?: number | readonly number[];
}

/** The names of {@link ControlOptions}. */
export const controlOptionNames: readonly (keyof ControlOptions)[] = [
  "controlnet_conditioning_scale",
  "guess_mode",
  "control_guidance_start",
  "control_guidance_end",
];

/** {@link ControlOptions}, checked: in the lists is one number for each net. */
export interface ControlSettings {
  readonly scales: readonly number[];
  readonly starts: readonly number[];
  readonly ends: readonly number[];
  readonly guess_mode: boolean;
}

/** The nets of a pipeline. */
export function netsOf(controlnet: ControlNet): readonly ControlNetModel[] {
  return "nets" in controlnet ? controlnet.nets : [controlnet];
}

/**
 * @param scale the default of `controlnet_conditioning_scale`
 * @throws ValueError for lists of another length than there are nets, and for shares that are none or leave no step.
 * @see Diffusers `StableDiffusionControlNetPipeline.check_inputs`
 */
export function controlSettings(controlnet: ControlNet, options: ControlOptions, scale: number): ControlSettings {
  const nets = netsOf(controlnet);
  const forEach = (field: keyof ControlOptions, value: unknown): number[] => {
    const list: readonly unknown[] = Array.isArray(value) ? value : nets.map(() => value);
    if (list.length !== nets.length) {
      const [found, expected] = [`${list.length} numbers`, `a number, or a list of ${nets.length}`];
      throw new ValueError(
        `\`${field}\` has ${found} for ${nets.length === 1 ? "one ControlNet" : `${nets.length} ControlNets`}: pass ${expected}.`,
        { field, found, expected },
      );
    }
    for (const one of list) checkNumber(field, one);
    return list as number[];
  };
  const scales = forEach("controlnet_conditioning_scale", options.controlnet_conditioning_scale ?? scale);
  const starts = forEach("control_guidance_start", options.control_guidance_start ?? 0);
  const ends = forEach("control_guidance_end", options.control_guidance_end ?? 1);
  for (const [i, start] of starts.entries()) {
    const end = ends[i]!;
    checkShare("control_guidance_start", start);
    checkShare("control_guidance_end", end);
    if (start < end) continue;
    throw new ValueError(
      `\`control_guidance_start\` is ${start}, but has to be below \`control_guidance_end\`, ${end}.`,
      {
        field: "control_guidance_start",
        found: String(start),
        expected: `below ${end}`,
      },
    );
  }
  const { guess_mode = false } = options;
  if (typeof guess_mode !== "boolean") {
    throw new ValueError(`\`guess_mode\` is ${JSON.stringify(guess_mode)}, expected true or false.`, {
      field: "guess_mode",
      found: typeof guess_mode,
      expected: "true or false",
    });
  }
  return { scales, starts, ends, guess_mode: guess_mode || nets[0]!.config.global_pool_conditions };
}

/** What each net's residuals are multiplied with in step `i` of so many. */
export function scalesAt({ scales, starts, ends }: ControlSettings, i: number, steps: number): number[] {
  return scales.map((scale, net) => {
    const isLeftOut = i / steps < starts[net]! || (i + 1) / steps > ends[net]!;
    return isLeftOut ? 0 : scale;
  });
}
