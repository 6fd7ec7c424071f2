import { DDIMParallelScheduler } from "@diffusers-web/core";
import { testBatchSteps } from "./parallel.ts";

testBatchSteps("ddim_parallel", DDIMParallelScheduler);
