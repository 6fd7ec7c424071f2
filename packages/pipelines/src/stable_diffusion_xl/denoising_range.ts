import { type Scheduler, ValueError } from "@diffusers-web/core";
import { checkShare } from "../checks.ts";
import { roundHalfEven } from "../image_transforms.ts";

/** The part of the denoising that a run does, as shares of all of it. */
export interface DenoisingRange {
  readonly denoising_start?: number | null;
  readonly denoising_end?: number | null;
}

/** @throws ValueError for what is no share, and for a start that does not lie before the end. */
export function checkDenoisingRange({ denoising_start, denoising_end }: DenoisingRange): void {
  if (denoising_start != null) checkShare("denoising_start", denoising_start);
  if (denoising_end != null) checkShare("denoising_end", denoising_end);
  if (!isPartial(denoising_start) || !isPartial(denoising_end) || denoising_start < denoising_end) return;
  throw new ValueError(
    `\`denoising_start\` is ${denoising_start}, but has to be below \`denoising_end\`, ${denoising_end}.`,
    { field: "denoising_start", found: String(denoising_start), expected: `below ${denoising_end}` },
  );
}

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
 * The timesteps of a run that begins where another one has ended; the scheduler is told that it begins there.
 *
 * @param timesteps all timesteps of the run, as the scheduler has laid them out
 * @param denoising_start the share of the denoising that is done
 * @see Diffusers `StableDiffusionXLImg2ImgPipeline.get_timesteps`
 */
export function timestepsFrom(scheduler: Scheduler, timesteps: number[], denoising_start: number): number[] {
  const cutoff = timestepAt(scheduler, denoising_start);
  let count = timesteps.filter((t) => t < cutoff).length;
  // Schedulers of second order have each timestep but the first twice: an even number would begin between the two.
  if (scheduler.order === 2 && count % 2 === 0) count++;
  const begin = timesteps.length - count;
  scheduler.set_begin_index?.(begin);
  return timesteps.slice(begin);
}

/** @throws ValueError when a run has no timestep after `denoising_start`. */
export function checkRangeLeft(timesteps: readonly number[], denoising_start: number): void {
  if (timesteps.length > 0) return;
  throw new ValueError(
    `\`denoising_start\` ${denoising_start} leaves no timestep to run: lower it, or raise num_inference_steps.`,
    { field: "denoising_start", found: String(denoising_start), expected: "a share with timesteps after it" },
  );
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
