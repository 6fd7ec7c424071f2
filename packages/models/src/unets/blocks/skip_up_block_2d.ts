import { skipUp } from "./skip_up.ts";
import type { SkipUpBlock } from "./types.ts";

/** Residual blocks over what was kept, which also draw a part of the picture; then a blur to twice the size. @see Diffusers `SkipUpBlock2D` */
export const skipUpBlock2D: SkipUpBlock = skipUp(false);
