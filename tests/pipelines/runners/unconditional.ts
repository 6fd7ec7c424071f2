import {
  type AnyPipeline,
  DiffusionPipeline,
  type Generator,
  type LDMPipeline,
  PNDMPipeline,
  Tensor,
} from "@diffusers-web/pipelines";
import { seeded, tensorOf } from "../../support/calls.ts";
import type { FixtureCall, Given, Place } from "./types.ts";

export async function load({ device, path }: Place): Promise<Record<string, AnyPipeline>> {
  const at = (name: string): string =>
    path(name.endsWith("-tiny") ? `pipelines/${name}` : `pipelines/unconditional-tiny/${name}`);
  const pipelines: Record<string, object> = {
    "ddpm-tiny PNDMPipeline": await PNDMPipeline.from_pretrained(at("ddpm-tiny"), { device }),
  };
  for (const name of ["ddpm-tiny", "ldm", "sde", "cm"]) {
    pipelines[`${name} None`] = await DiffusionPipeline.from_pretrained(at(name), { device });
  }
  // It has no UNet of its own, to keep it small.
  const { unet } = pipelines["ldm None"] as LDMPipeline;
  pipelines["karras None"] = await DiffusionPipeline.from_pretrained(at("karras"), { device, unet });
  return pipelines as Record<string, AnyPipeline>;
}

export const pipelineOf = ({ checkpoint, kind }: FixtureCall): string => `${checkpoint} ${kind ?? "None"}`;

/** Of a call in Python, where torch itself was seeded when no generator was passed: its numbers are the same. */
function generatorOf(seed: unknown): Generator | Generator[] {
  if (Array.isArray(seed)) return seed.map(seeded);
  return seeded(typeof seed === "number" ? seed : (seed as { torch: number }).torch);
}

export function options({ name, options }: FixtureCall, { tensors }: Pick<Given, "tensors">): Record<string, unknown> {
  const { seed, ...made } = options as Record<string, unknown>;
  if ("latents" in made) made["latents"] = tensorOf(tensors[`${name}/latents`]!);
  const labels = made["class_labels"] as { tensor?: number[] } | null | undefined;
  if (labels?.tensor !== undefined) {
    made["class_labels"] = new Tensor("int32", Int32Array.from(labels.tensor), [labels.tensor.length]);
  }
  return { ...made, generator: generatorOf(seed) };
}
