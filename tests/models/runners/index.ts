import { adapter } from "./adapter.ts";
import { asymmetricAutoencoderKL } from "./autoencoder_asym_kl.ts";
import { autoencoderKL } from "./autoencoder_kl.ts";
import { autoencoderTiny } from "./autoencoder_tiny.ts";
import { clipText, clipTextWithProjection } from "./clip_text.ts";
import { clipVision, clipVisionWithProjection } from "./clip_vision.ts";
import { consistencyDecoderVAE } from "./consistency_decoder_vae.ts";
import { controlNet } from "./controlnet.ts";
import { dpt } from "./dpt.ts";
import { safetyChecker } from "./safety_checker.ts";
import type { CaseRunner } from "./types.ts";
import { unet2D } from "./unet_2d.ts";
import { unet2DCondition } from "./unet_2d_condition.ts";
import { vqModel } from "./vq_model.ts";

/** How the cases are run, by the name of their class. A class is added by a file beside this one, and a line here. */
export const runners: Readonly<Record<string, CaseRunner>> = Object.fromEntries(
  [
    adapter,
    asymmetricAutoencoderKL,
    autoencoderKL,
    autoencoderTiny,
    clipText,
    clipTextWithProjection,
    clipVision,
    clipVisionWithProjection,
    consistencyDecoderVAE,
    controlNet,
    dpt,
    safetyChecker,
    unet2D,
    unet2DCondition,
    vqModel,
  ].map((one) => [one.model.name, one]),
);

/** The files of cases there are, without ending. */
export const stems: readonly string[] = [...new Set(Object.values(runners).flatMap((one) => one.stems))];
