import type { Scheduler } from "@diffusers-web/core";
import type { UNet2DConditionModel } from "@diffusers-web/models";

/** A config value of early checkpoints that is put right. */
export type OutdatedField = "steps_offset" | "clip_sample" | "skip_prk_steps" | "sample_size";

/**
 * Early checkpoints of Stable Diffusion came with config values that were wrong: Diffusers puts them right whenever a
 * pipeline is built, and pictures depend on it.
 *
 * @param fields those that the class at hand puts right
 * @see Diffusers `StableDiffusionPipeline.__init__`
 */
export function updateOldConfigs(
  scheduler: Scheduler | null,
  unet: UNet2DConditionModel | null,
  fields: readonly OutdatedField[],
): void {
  const config = scheduler?.config as Readonly<Record<string, unknown>> | undefined;
  if (fields.includes("steps_offset") && (config?.["steps_offset"] ?? 1) !== 1) {
    warnOfOldConfig("scheduler_config.json", "steps_offset", config?.["steps_offset"], 1);
    scheduler?.register_to_config({ steps_offset: 1 });
  }
  if (fields.includes("clip_sample") && config?.["clip_sample"] === true) {
    warnOfOldConfig("scheduler_config.json", "clip_sample", true, false);
    scheduler?.register_to_config({ clip_sample: false });
  }
  if (fields.includes("skip_prk_steps") && config?.["skip_prk_steps"] === false) {
    warnOfOldConfig("scheduler_config.json", "skip_prk_steps", false, true);
    scheduler?.register_to_config({ skip_prk_steps: true });
  }
  const version = (unet?.config as Readonly<Record<string, unknown>> | undefined)?.["_diffusers_version"];
  const size = unet?.config.sample_size;
  if (!fields.includes("sample_size")) return;
  if (typeof version === "string" && typeof size === "number" && size < 64 && isBefore(version, 0, 9)) {
    warnOfOldConfig("unet/config.json", "sample_size", size, 64);
    unet?.register_to_config({ sample_size: 64 });
  }
}

function warnOfOldConfig(file: string, field: string, found: unknown, used: unknown): void {
  console.warn(`${file} is outdated: \`${field}\` is ${found}; ${used} is used, as Diffusers does. Correct the file.`);
}

function isBefore(version: string, major: number, minor: number): boolean {
  const [a = 0, b = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  return a < major || (a === major && b < minor);
}
