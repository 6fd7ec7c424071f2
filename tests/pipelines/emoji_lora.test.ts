/** A trained adapter on the embedded model, against Python: tests/fixtures/pipelines/make_emoji_lora.py. */
import { fileURLToPath } from "node:url";
import { Generator, StableDiffusionPipeline } from "@diffusers-web/pipelines";
import { afterAll, beforeAll, test } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixtureTensors } from "../support/fixtures.ts";

const models = fileURLToPath(new URL("../../demo/public/models", import.meta.url));
const expected = fixtureTensors("pipelines/emoji_lora.safetensors");

let pipeline: StableDiffusionPipeline;
beforeAll(async () => {
  pipeline = await StableDiffusionPipeline.from_pretrained(`${models}/emoji-diffusion`, { device: "wasm" });
  await pipeline.load_lora_weights(`${models}/emoji-ink-lora`, { adapter_name: "ink" });
});
afterAll(() => pipeline.dispose());

// The last weight is 0 again: what an adapter did is undone without a trace.
test.each(["0.6", "1.0", "0.0"])("weight %s", async (weight) => {
  pipeline.set_adapters("ink", Number(weight));
  const { images } = await pipeline(["a cat", "a rocket on a yellow background"], {
    num_inference_steps: 4,
    guidance_scale: 2,
    generator: [0, 5].map((seed) => new Generator().manual_seed(seed)),
    output_type: "latent",
  });
  // Rounding grows over the steps: 2e-6 of the scale was measured; the issue allows 1e-3.
  expectClose(images.data, expected[weight]!.data as Float32Array, 1e-4);
});
