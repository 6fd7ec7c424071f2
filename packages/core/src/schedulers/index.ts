import { CMStochasticIterativeScheduler } from "./scheduling_consistency_models.ts";
import { CosineDPMSolverMultistepScheduler } from "./scheduling_cosine_dpmsolver_multistep.ts";
import { DDIMScheduler } from "./scheduling_ddim.ts";
import { DDIMInverseScheduler } from "./scheduling_ddim_inverse.ts";
import { DDIMParallelScheduler } from "./scheduling_ddim_parallel.ts";
import { DDPMScheduler } from "./scheduling_ddpm.ts";
import { DDPMParallelScheduler } from "./scheduling_ddpm_parallel.ts";
import { DEISMultistepScheduler } from "./scheduling_deis_multistep.ts";
import { DPMSolverMultistepScheduler } from "./scheduling_dpmsolver_multistep.ts";
import { DPMSolverMultistepInverseScheduler } from "./scheduling_dpmsolver_multistep_inverse.ts";
import { DPMSolverSDEScheduler } from "./scheduling_dpmsolver_sde.ts";
import { DPMSolverSinglestepScheduler } from "./scheduling_dpmsolver_singlestep.ts";
import { EDMDPMSolverMultistepScheduler } from "./scheduling_edm_dpmsolver_multistep.ts";
import { EDMEulerScheduler } from "./scheduling_edm_euler.ts";
import { EulerAncestralDiscreteScheduler } from "./scheduling_euler_ancestral_discrete.ts";
import { EulerDiscreteScheduler } from "./scheduling_euler_discrete.ts";
import { FlowMatchEulerDiscreteScheduler } from "./scheduling_flow_match_euler_discrete.ts";
import { FlowMatchHeunDiscreteScheduler } from "./scheduling_flow_match_heun_discrete.ts";
import { FlowMatchLCMScheduler } from "./scheduling_flow_match_lcm.ts";
import { HeunDiscreteScheduler } from "./scheduling_heun_discrete.ts";
import { IPNDMScheduler } from "./scheduling_ipndm.ts";
import { KDPM2AncestralDiscreteScheduler } from "./scheduling_k_dpm_2_ancestral_discrete.ts";
import { KDPM2DiscreteScheduler } from "./scheduling_k_dpm_2_discrete.ts";
import { KarrasVeScheduler } from "./scheduling_karras_ve.ts";
import { LCMScheduler } from "./scheduling_lcm.ts";
import { LMSDiscreteScheduler } from "./scheduling_lms_discrete.ts";
import { PNDMScheduler } from "./scheduling_pndm.ts";
import { RePaintScheduler } from "./scheduling_repaint.ts";
import { SASolverScheduler } from "./scheduling_sasolver.ts";
import { SCMScheduler } from "./scheduling_scm.ts";
import { ScoreSdeVeScheduler } from "./scheduling_sde_ve.ts";
import { ScoreSdeVpScheduler } from "./scheduling_sde_vp.ts";
import { TCDScheduler } from "./scheduling_tcd.ts";
import { UnCLIPScheduler } from "./scheduling_unclip.ts";
import { UniPCMultistepScheduler } from "./scheduling_unipc_multistep.ts";
import type { SchedulerClass } from "./scheduling_utils.ts";

export type { SigmaLike } from "./edm_preconditioning.ts";
export * from "./scheduling_consistency_models.ts";
export * from "./scheduling_cosine_dpmsolver_multistep.ts";
export * from "./scheduling_ddim.ts";
export * from "./scheduling_ddim_inverse.ts";
export * from "./scheduling_ddim_parallel.ts";
export * from "./scheduling_ddpm.ts";
export * from "./scheduling_ddpm_parallel.ts";
export * from "./scheduling_deis_multistep.ts";
export * from "./scheduling_dpmsolver_multistep.ts";
export * from "./scheduling_dpmsolver_multistep_inverse.ts";
export * from "./scheduling_dpmsolver_sde.ts";
export * from "./scheduling_dpmsolver_singlestep.ts";
export * from "./scheduling_edm_dpmsolver_multistep.ts";
export * from "./scheduling_edm_euler.ts";
export * from "./scheduling_euler_ancestral_discrete.ts";
export * from "./scheduling_euler_discrete.ts";
export * from "./scheduling_flow_match_euler_discrete.ts";
export * from "./scheduling_flow_match_heun_discrete.ts";
export * from "./scheduling_flow_match_lcm.ts";
export * from "./scheduling_heun_discrete.ts";
export * from "./scheduling_ipndm.ts";
export * from "./scheduling_k_dpm_2_ancestral_discrete.ts";
export * from "./scheduling_k_dpm_2_discrete.ts";
export * from "./scheduling_karras_ve.ts";
export * from "./scheduling_lcm.ts";
export * from "./scheduling_lms_discrete.ts";
export * from "./scheduling_pndm.ts";
export * from "./scheduling_repaint.ts";
export * from "./scheduling_sasolver.ts";
export * from "./scheduling_scm.ts";
export * from "./scheduling_sde_ve.ts";
export * from "./scheduling_sde_vp.ts";
export * from "./scheduling_tcd.ts";
export * from "./scheduling_unclip.ts";
export * from "./scheduling_unipc_multistep.ts";
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
  CMStochasticIterativeScheduler,
  CosineDPMSolverMultistepScheduler,
  DDIMInverseScheduler,
  DDIMParallelScheduler,
  DDIMScheduler,
  DDPMParallelScheduler,
  DDPMScheduler,
  DEISMultistepScheduler,
  DPMSolverMultistepScheduler,
  DPMSolverMultistepInverseScheduler,
  DPMSolverSDEScheduler,
  DPMSolverSinglestepScheduler,
  EDMDPMSolverMultistepScheduler,
  EDMEulerScheduler,
  EulerAncestralDiscreteScheduler,
  EulerDiscreteScheduler,
  FlowMatchEulerDiscreteScheduler,
  FlowMatchHeunDiscreteScheduler,
  FlowMatchLCMScheduler,
  HeunDiscreteScheduler,
  IPNDMScheduler,
  KarrasVeScheduler: KarrasVeScheduler as unknown as SchedulerClass,
  KDPM2AncestralDiscreteScheduler,
  KDPM2DiscreteScheduler,
  LCMScheduler,
  LMSDiscreteScheduler,
  PNDMScheduler,
  RePaintScheduler: RePaintScheduler as unknown as SchedulerClass,
  SASolverScheduler,
  SCMScheduler,
  ScoreSdeVeScheduler: ScoreSdeVeScheduler as unknown as SchedulerClass,
  ScoreSdeVpScheduler: ScoreSdeVpScheduler as unknown as SchedulerClass,
  TCDScheduler,
  UnCLIPScheduler,
  UniPCMultistepScheduler,
};
