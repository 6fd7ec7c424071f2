import type { Tensor } from "@diffusers-web/core";

/** A callback as some pipelines of Diffusers have it; `callback_on_step_end` can do more. */
export interface StepCallbackOptions {
  /** Called after steps, and awaited: with the step, its timestep and the latents. */
  readonly callback?: ((step: number, timestep: number, latents: Tensor) => unknown) | null;
  /** After every how manieth step. Default 1. */
  readonly callback_steps?: number;
}

/** The names of {@link StepCallbackOptions}. */
export const stepCallbackNames: readonly (keyof StepCallbackOptions)[] = ["callback", "callback_steps"];

/**
 * Calls a call's `callback` where it is due: a scheduler of second order makes a step of two timesteps.
 *
 * @param timesteps how many timesteps the run has
 * @param warmup how many of them come before the first step
 */
export function stepCallback(
  { callback, callback_steps = 1 }: StepCallbackOptions,
  { timesteps, warmup, order }: { readonly timesteps: number; readonly warmup: number; readonly order: number },
): (i: number, t: number, latents: Tensor) => Promise<void> {
  return async (i, t, latents) => {
    const isStep = i === timesteps - 1 || (i + 1 > warmup && (i + 1) % order === 0);
    if (callback != null && isStep && i % callback_steps === 0) await callback(Math.floor(i / order), t, latents);
  };
}
