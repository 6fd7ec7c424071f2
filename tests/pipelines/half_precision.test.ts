/**
 * Whole pipelines in half precision, which is what most GPUs run, on a processor that pretends to have it: graphs are built for
 * it, and the engine's float16 kernels for the processor run them.
 */
import { ModelMixin, MultiAdapter, MultiControlNetModel } from "@diffusers-web/pipelines";
import { describe, expect, test } from "vitest";
import type { Target } from "../../packages/models/src/graph/types.ts";
import { compare } from "../support/allclose.ts";
import { openSet } from "../support/fixture_set.ts";
import { setTarget, targetOf } from "../support/pretended_target.ts";
import { runners } from "./runners/index.ts";
import type { CallRunner } from "./runners/types.ts";

/** The models of a pipeline, also of what is several. */
function modelsOf(pipeline: object): ModelMixin<object>[] {
  const { components } = pipeline as { components: Record<string, unknown> };
  return Object.values(components).flatMap((part): readonly ModelMixin<object>[] => {
    if (part instanceof MultiControlNetModel) return part.nets;
    if (part instanceof MultiAdapter) return part.adapters;
    return part instanceof ModelMixin ? [part] : [];
  });
}

/** In half precision; what is loaded for a call is loaded on the real device. */
function halved(runner: CallRunner): CallRunner {
  const real = new Map<ModelMixin<object>, Target>();
  return {
    ...runner,
    async prepare(pipeline, call, given) {
      for (const [model, target] of real) if (!model.is_disposed) setTarget(model, target);
      await runner.prepare?.(pipeline, call, given);
      for (const model of modelsOf(pipeline)) {
        const target = real.get(model) ?? targetOf(model);
        real.set(model, target);
        setTarget(model, { ...target, dtype: "float16" });
      }
    },
  };
}

// Every twelfth call; a third of them by HALF=third npx vitest run tests/pipelines/half_precision.test.ts
const step = process.env["HALF"] === "third" ? 3 : 12;

const errors: number[] = [];

for (const [stem, load] of Object.entries(runners)) {
  const runner = await load();
  describe(stem, () => {
    const { fixture, expected, set } = openSet(stem, halved(runner));
    const latentOf = (name: string) => expected[`${name}/latent`] ?? expected[`${name}/last`];
    // emoji-diffusion takes minutes.
    const calls = fixture.calls.filter(
      ({ name, checkpoint }, i) => i % step === 1 && checkpoint !== "emoji" && latentOf(name) !== undefined,
    );
    test.each(calls.map((call) => [call.name, call] as const))("%s", async (name, call) => {
      const { latents } = await set.run(call);
      const { data } = latentOf(name)!;
      const { error, scale } = compare(latents.data, data as Float32Array);
      // Half precision has 11 bits, 5e-4, and tiny XL models of random weights amplify: at most 5.6e-2 was seen, half of all were
      // below 1e-3.
      expect(error).toBeLessThanOrEqual(0.06 * scale);
      errors.push(error / scale);
    });
  });
}

test("half precision was used at all", () => {
  // Single precision is more exact than this in all calls but a few.
  expect(errors.sort((a, b) => a - b)[Math.floor(errors.length / 2)]).toBeGreaterThan(1e-4);
});
