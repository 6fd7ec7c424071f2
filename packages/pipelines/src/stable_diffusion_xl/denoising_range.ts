import type { Scheduler } from "@diffusers-web/core";
import { roundHalfEven } from "../image_transforms.ts";

/** The training's timestep at which so large a share of the denoising is done. */
export function timestepAt(scheduler: Scheduler, share: number): number {
  const { num_train_timesteps } = scheduler.config as { readonly num_train_timesteps: number };
  return roundHalfEven(num_train_timesteps - share * num_train_timesteps);
}

/** Whether a share of the denoising is one to begin or end at: neither nothing nor all of it. */
export function isPartial(share: number | null | undefined): share is number {
  return share != null && share > 0 && share < 1;
}

/**
 * The timesteps of a run that ends before the denoising does.
 *
 * @param denoising_end the share after which it ends; null, 0 and 1 for all of it, as in Diffusers
 */
export function timestepsUntil(
  scheduler: Scheduler,
  timesteps: number[],
  denoising_end: number | null | undefined,
): number[] {
  if (!isPartial(denoising_end)) return timesteps;
  const cutoff = timestepAt(scheduler, denoising_end);
  return timesteps.slice(0, timesteps.filter((t) => t >= cutoff).length);
}
