/** Perturbed attention in a UNet as a call's option; what it computes is in the table unet_pag. */
import { Tensor, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import { UNet2DConditionModel, type UNet2DConditionOptions } from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { compare, expectClose } from "../support/allclose.ts";
import { caseInputs, caseSource } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

function caseNamed(key: string): (typeof modelCases)[number] {
  return modelCases.find(({ name }) => name === `UNet2DConditionModel/${key}`)!;
}

async function load(key: string): Promise<UNet2DConditionModel> {
  const one = caseNamed(key);
  return UNet2DConditionModel.from_pretrained(caseSource(one, caseShapes[one.name]!), { device: "wasm" });
}

describe("perturbed attention", () => {
  const layers = ["mid"];

  it("is a call's own, and leaves nothing behind", async () => {
    const model = await load("pag_mid_two_parts");
    const { sample, timestep, encoder_hidden_states } = caseInputs(caseNamed("pag_mid_two_parts"));
    const call = async (options?: UNet2DConditionOptions): Promise<Float32Array> =>
      (await model(sample!, timestep!, encoder_hidden_states!, options)).sample.data;
    const before = await call();
    const perturbed = await call({ perturbed_attention: { layers, parts: 2 } });
    const half = before.length / 2;
    // The first part is not touched, the second one is.
    expectClose(perturbed.subarray(0, half), before.subarray(0, half), 2e-6);
    expect(compare(perturbed.subarray(half), before.subarray(half)).error).toBeGreaterThan(1e-3);
    expect(await call()).toEqual(before);
    expect(await call({ perturbed_attention: { layers: [], parts: 2 } })).toEqual(before);
    await model.dispose();
  });

  it("self_attentions tells the names, and what patterns match", async () => {
    const model = await load("pag_numbered");
    const names = model.self_attentions();
    expect(names).toContain("down_blocks.1.attentions.1");
    expect(names).toContain("mid_block.attentions.0.transformer_blocks.0.attn1");
    expect(names.filter((name) => name.endsWith("attn2"))).toEqual([]);
    expect(model.self_attentions(["down_blocks.1"])).toEqual(["down_blocks.1.attentions.0"]);
    expect(() => model.self_attentions(["down", "down_blocks.9"])).toThrow(
      /"down_blocks\.9".*There are some in: down_blocks\.0\.attentions\.0, .*mid_block\.attentions\.0, up_blocks/,
    );
    expect(() => model.self_attentions(["down_blocks.9"])).toThrow(ValueError);
    await model.dispose();
  });

  it.each<[string, UNet2DConditionOptions, number, typeof ValueError | typeof UnsupportedModelError, RegExp]>([
    ["a batch that does not divide", {}, 4, ValueError, /a batch of 3 equal parts, but it has 4 items/],
    [
      "a mask of the pixels",
      { attention_mask: Tensor.ones([3, 64]) },
      3,
      UnsupportedModelError,
      /`attention_mask` does not/,
    ],
    [
      "grounded objects",
      { cross_attention_kwargs: { gligen: {} as never } },
      3,
      UnsupportedModelError,
      /`gligen` does not go with `perturbed_attention`/,
    ],
  ])("a call is refused: %s", async (_, options, batch, error, message) => {
    const model = await load("pag_mid");
    const text = Tensor.zeros([batch, 5, 12]);
    const call = model(Tensor.zeros([batch, 4, 8, 8]), 1, text, {
      ...options,
      perturbed_attention: { layers, parts: 3 },
    });
    await expect(call).rejects.toThrow(error);
    await expect(call).rejects.toThrow(message);
    await model.dispose();
  });
});
