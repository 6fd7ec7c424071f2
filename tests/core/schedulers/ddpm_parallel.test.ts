import { DDPMParallelScheduler } from "@diffusers-web/core";
import { testBatchSteps } from "./parallel.ts";

testBatchSteps("ddpm_parallel", DDPMParallelScheduler);
