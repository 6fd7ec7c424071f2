import {
  type Scheduler,
  type SchedulerClass,
  type SetTimestepsOptions,
  type StepOptions,
  ValueError,
} from "@diffusers-web/core";

/** The class of a scheduler, with the lists of what its methods take. */
export function schedulerClass(scheduler: Scheduler): SchedulerClass {
  return scheduler.constructor as unknown as SchedulerClass;
}

/** Timesteps or sigmas of the caller's own, in place of a number of steps. */
export interface CustomTimesteps {
  readonly timesteps?: ArrayLike<number> | null | undefined;
  readonly sigmas?: ArrayLike<number> | null | undefined;
}

/**
 * Lays out a run's timesteps: so many steps, or the caller's own timesteps or sigmas where the scheduler takes them.
 *
 * @param more what else the scheduler's `set_timesteps` is told
 * @returns the timesteps, and the number of steps they amount to
 * @throws ValueError when both are given, or the scheduler does not take them.
 * @see Diffusers `retrieve_timesteps`
 */
export function retrieve_timesteps(
  scheduler: Scheduler,
  num_inference_steps: number,
  { timesteps, sigmas }: CustomTimesteps = {},
  more: SetTimestepsOptions = {},
): { timesteps: number[]; num_inference_steps: number } {
  if (timesteps != null && sigmas != null) {
    throw new ValueError("`timesteps` and `sigmas` were both given: pass one of them.", { field: "sigmas" });
  }
  const custom = timesteps != null ? { timesteps } : sigmas != null ? { sigmas } : undefined;
  if (custom === undefined) {
    scheduler.set_timesteps(num_inference_steps, more);
    return { timesteps: Array.from(scheduler.timesteps), num_inference_steps };
  }
  const [kind, values] = Object.entries(custom)[0]!;
  const { name, set_timesteps_options } = schedulerClass(scheduler);
  if (!set_timesteps_options.includes(kind)) {
    throw new ValueError(
      `${name} takes no \`${kind}\` of your own. Pass num_inference_steps, or use a scheduler that does.`,
      {
        className: name,
        field: kind,
        found: kind,
        expected: set_timesteps_options.join(", ") || "num_inference_steps",
      },
    );
  }
  if (values.length === 0) {
    throw new ValueError(`\`${kind}\` is empty: there must be one value at least.`, { field: kind, found: "[]" });
  }
  scheduler.set_timesteps(null, { ...custom, ...more });
  return { timesteps: Array.from(scheduler.timesteps), num_inference_steps: scheduler.timesteps.length };
}

/** Those of `options` that the scheduler's `step` takes. @see Diffusers `prepare_extra_step_kwargs` */
export function stepOptions(scheduler: Scheduler, options: StepOptions): StepOptions {
  const { step_options } = schedulerClass(scheduler);
  return Object.fromEntries(
    Object.entries(options).filter(([key, value]) => step_options.includes(key) && value != null),
  );
}
