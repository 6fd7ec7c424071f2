import { autoencoderKL } from "./autoencoder_kl.ts";
import { clipText } from "./clip_text.ts";
import type { CaseRunner } from "./types.ts";
import { unet2D } from "./unet_2d.ts";
import { unet2DCondition } from "./unet_2d_condition.ts";

/** How the cases are run, by the name of their class. A class is added by a file beside this one, and a line here. */
export const runners: Readonly<Record<string, CaseRunner>> = Object.fromEntries(
  [autoencoderKL, clipText, unet2D, unet2DCondition].map((one) => [one.model.name, one]),
);

/** The files of cases there are, without ending. */
export const stems: readonly string[] = [...new Set(Object.values(runners).map(({ stem }) => stem))];
