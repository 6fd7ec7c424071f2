import { DDIMScheduler } from "./scheduling_ddim.ts";
import { DDPMScheduler } from "./scheduling_ddpm.ts";
import { DPMSolverMultistepScheduler } from "./scheduling_dpmsolver_multistep.ts";
import { EulerDiscreteScheduler } from "./scheduling_euler_discrete.ts";
import { PNDMScheduler } from "./scheduling_pndm.ts";
import type { SchedulerClass } from "./scheduling_utils.ts";

export * from "./scheduling_ddim.ts";
export * from "./scheduling_ddpm.ts";
export * from "./scheduling_dpmsolver_multistep.ts";
export * from "./scheduling_euler_discrete.ts";
export * from "./scheduling_pndm.ts";
export {
  type BaseSchedulerConfig,
  type PredictionType,
  type Scheduler,
  type SchedulerClass,
  SchedulerMixin,
  type SchedulerOutput,
  type SetTimestepsOptions,
  type StepOptions,
  type TimestepSpacing,
  type Timesteps,
} from "./scheduling_utils.ts";

/** The schedulers by name, as `_class_name` of a config and `model_index.json` have it. */
export const schedulerRegistry: Readonly<Record<string, SchedulerClass>> = {
  DDIMScheduler,
  DDPMScheduler,
  DPMSolverMultistepScheduler,
  EulerDiscreteScheduler,
  PNDMScheduler,
};
