import { skipDown } from "./skip_down.ts";
import type { SkipDownBlock } from "./types.ts";

/** A skip block with self-attention after each residual block. @see Diffusers `AttnSkipDownBlock2D` */
export const attnSkipDownBlock2D: SkipDownBlock = skipDown(true);
