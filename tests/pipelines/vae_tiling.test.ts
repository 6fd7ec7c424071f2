/** `enable_vae_tiling` and the like; that tiles are as in Diffusers is in tests/models. */
import { AsymmetricAutoencoderKL } from "@diffusers-web/models";
import {
  Generator,
  StableDiffusionPipeline,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { caseSource } from "../models/cases.ts";
import { caseShapes, modelCases } from "../models/cases_node.ts";
import { expectClose } from "../support/allclose.ts";
import { fixturePath } from "../support/fixtures.ts";

let pipeline: StableDiffusionPipeline;
beforeAll(async () => {
  pipeline = await StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), {
    device: "wasm",
    requires_safety_checker: false,
  });
});
afterAll(() => pipeline.dispose());

/** Two pictures as tensors, or their latents. */
async function pictures(output_type: "pt" | "latent"): Promise<Tensor> {
  const { images } = await pipeline("a cat", {
    ...{ num_inference_steps: 1, num_images_per_prompt: 2, guidance_scale: 1, output_type },
    generator: new Generator().manual_seed(3),
  });
  expect(images).toBeInstanceOf(Tensor);
  return images as unknown as Tensor;
}

describe("StableDiffusionPipeline", () => {
  test("slicing gives the same pictures", async () => {
    const whole = await pictures("pt");
    pipeline.enable_vae_slicing();
    expect(pipeline.vae.use_slicing).toBe(true);
    expectClose((await pictures("pt")).data, whole.data, 1e-6);
    pipeline.disable_vae_slicing();
    expect(pipeline.vae.use_slicing).toBe(false);
  });

  test("tiling decodes in tiles", async () => {
    const whole = await pictures("pt");
    pipeline.enable_vae_tiling();
    pipeline.vae.tile_latent_min_size = 4;
    pipeline.vae.tile_sample_min_size = 4 * pipeline.vae_scale_factor;
    const tiled = await pictures("pt");
    const latents = (await pictures("latent")).div(pipeline.vae.config.scaling_factor);
    const { sample } = await pipeline.vae.tiled_decode(latents);
    expectClose(tiled.data, sample.div(2).add(0.5).clamp(0, 1).data, 1e-6);
    pipeline.disable_vae_tiling();
    expect((await pictures("pt")).data).toEqual(whole.data);
    expect(tiled.data).not.toEqual(whole.data);
  });

  test("takes autoencoders of other classes", async () => {
    const one = modelCases.find(({ name }) => name === "AsymmetricAutoencoderKL/four_levels")!;
    const vae = await AsymmetricAutoencoderKL.from_pretrained(caseSource(one, caseShapes[one.name]!), {
      device: "wasm",
    });
    const { components } = pipeline;
    const other = new StableDiffusionPipeline({
      ...(components as unknown as StableDiffusionPipeline),
      ...{ vae, requires_safety_checker: false },
    });
    expect(other.vae_scale_factor).toBe(8);
    expect(other.config["vae"]).toEqual(["diffusers", "AsymmetricAutoencoderKL"]);
    const latents = new Generator().manual_seed(1).randn([1, 4, 4, 4]);
    const options = { latents, num_inference_steps: 1, height: 32, width: 32 };
    const [decoded, drawn] = [
      await other("a cat", { ...options, output_type: "pt" }),
      await other("a cat", { ...options, output_type: "latent" }),
    ].map(({ images }) => images as unknown as Tensor) as [Tensor, Tensor];
    const { sample } = await vae.decode(drawn.div(vae.config.scaling_factor));
    expectClose(decoded.data, sample.div(2).add(0.5).clamp(0, 1).data, 1e-6);
    await vae.dispose();
  });

  test("says what is missing", () => {
    const { vae } = pipeline;
    (pipeline as { vae: unknown }).vae = null;
    expect(() => pipeline.enable_vae_tiling()).toThrow(ValueError);
    (pipeline as { vae: unknown }).vae = new (class ORTVae {})();
    expect(() => pipeline.enable_vae_tiling()).toThrow(UnsupportedModelError);
    expect(() => pipeline.enable_vae_slicing()).toThrow(/ORTVae.*enable_slicing/);
    pipeline.vae = vae;
  });
});
