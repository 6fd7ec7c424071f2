import { skipUp } from "./skip_up.ts";
import type { SkipUpBlock } from "./types.ts";

/** A skip block with self-attention after the last residual block. @see Diffusers `AttnSkipUpBlock2D` */
export const attnSkipUpBlock2D: SkipUpBlock = skipUp(true);
