/** Against Diffusers' functions: tests/fixtures/pipelines/make_pipelines.py. */
import { Tensor, ValueError } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import {
  apply_guidance,
  get_guidance_scale_embedding,
  rescale_noise_cfg,
} from "../../packages/pipelines/src/guidance.ts";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixtureTensors } from "../support/fixtures.ts";

const expected = fixtureTensors("pipelines/pipelines.safetensors");
const tensorOf = ({ data, dims }: FixtureTensor): Tensor => new Tensor("float32", data as Float32Array, dims);

describe("guidance", () => {
  test("away from what is without the text", () => {
    const both = Tensor.from([[[1, 2]], [[3, -4]]]);
    const { noise_pred, noise_pred_text } = apply_guidance(both, 7.5);
    expect(noise_pred.tolist()).toEqual([[[16, -43]]]);
    expect(noise_pred_text.tolist()).toEqual([[[3, -4]]]);
  });

  test("rescaled to the spread of the text's prediction", () => {
    const [cfg, text] = [tensorOf(expected["noise_cfg"]!), tensorOf(expected["noise_text"]!)];
    const rescaled = rescale_noise_cfg(cfg, text, 0.6);
    // torch sums the squares in another order: two float32 roundings.
    expectClose(rescaled.data, expected["noise_rescaled"]!.data as Float32Array, 3e-7);
    expectClose(rescale_noise_cfg(cfg, text).data, cfg.data, 0);
  });

  test("the scale as an embedding", () => {
    const embedding = get_guidance_scale_embedding([6.5, 0], 7);
    expect(embedding.dims).toEqual([2, 7]);
    // Angles go up to 6,500: one float32 rounding of them is 5e-4.
    expectClose(embedding.data, expected["w_embedding"]!.data as Float32Array, 5e-4);
    expect(() => get_guidance_scale_embedding([1], 3)).toThrow(ValueError);
  });
});
