import { skipDown } from "./skip_down.ts";
import type { SkipDownBlock } from "./types.ts";

/** Residual blocks, then a blur to half the size; the picture itself comes in again, as small. @see Diffusers `SkipDownBlock2D` */
export const skipDownBlock2D: SkipDownBlock = skipDown(false);
