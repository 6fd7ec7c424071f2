/** SDXL's second text encoder from a checkpoint in one file, where it is in OpenCLIP's layout. */
import { Tensor } from "@diffusers-web/core";
import { CLIPTextModelWithProjection, CLIPVisionModelWithProjection } from "@diffusers-web/models";
import { expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { safetensors } from "../support/safetensors.ts";
import { caseInputs, formula, memorySource } from "./cases.ts";
import { caseOutputs, caseShapes, modelCases } from "./cases_node.ts";

const name = "CLIPTextModelWithProjection/sdxl";
const one = modelCases.find((candidate) => candidate.name === name)!;
const weights = new Map(caseShapes[name]!.map(([tensor, shape]): [string, Tensor] => [tensor, formula(tensor, shape)]));

/** The case's weights under OpenCLIP's names. */
function openClip(layers: number): [string, Tensor][] {
  const weight = (tensor: string): Tensor => weights.get(`text_model.${tensor}`)!;
  const both = (to: string, from: string): [string, Tensor][] =>
    ["weight", "bias"].map((part) => [`${to}.${part}`, weight(`${from}.${part}`)]);
  const parts = [
    ["ln_1", "layer_norm1"],
    ["ln_2", "layer_norm2"],
    ["attn.out_proj", "self_attn.out_proj"],
    ["mlp.c_fc", "mlp.fc1"],
    ["mlp.c_proj", "mlp.fc2"],
  ] as const;
  const layer = (i: number): [string, Tensor][] => [
    ...parts.flatMap(([to, from]) => both(`transformer.resblocks.${i}.${to}`, `encoder.layers.${i}.${from}`)),
    ...["weight", "bias"].map((part): [string, Tensor] => {
      const thirds = ["q", "k", "v"].map((which) => weight(`encoder.layers.${i}.self_attn.${which}_proj.${part}`));
      return [`transformer.resblocks.${i}.attn.in_proj_${part}`, Tensor.cat(thirds)];
    }),
  ];
  return [
    ["positional_embedding", weight("embeddings.position_embedding.weight")],
    ["token_embedding.weight", weight("embeddings.token_embedding.weight")],
    ["text_projection", weights.get("text_projection.weight")!.permute(1, 0)],
    ...both("ln_final", "final_layer_norm"),
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
  ];
}

test("CLIPTextModelWithProjection of a checkpoint of SDXL", async () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const prefix = "conditioner.embedders.1.model.";
  const tensors: [string, Tensor][] = [
    ...openClip(one.config["num_hidden_layers"] as number).map(([key, tensor]): [string, Tensor] => [
      prefix + key,
      tensor,
    ]),
    [`${prefix}logit_scale`, Tensor.ones([])],
    ["conditioner.embedders.0.transformer.text_model.embeddings.position_ids", Tensor.ones([1, 12])],
  ];
  const data = Tensor.cat(tensors.map(([, tensor]) => tensor.reshape(tensor.size))).data;
  const header = tensors.map(([key, { dims, size }]) => [key, ["F32", dims, size * 4]] as const);
  const file = safetensors(Object.fromEntries(header), { data: new Uint8Array(data.buffer) });
  const source = memorySource("memory", { "xl.safetensors": file });
  const config = memorySource("config", {
    "text_encoder_2/config.json": new TextEncoder().encode(JSON.stringify(one.config)),
  });

  const from = { source, file: "xl.safetensors" };
  await using model = await CLIPTextModelWithProjection.from_single_file(from, { device: "wasm", config });
  const { input_ids } = caseInputs(one) as unknown as { input_ids: Tensor<"int64"> };
  const { hidden_states, ...outputs } = await model(input_ids);
  for (const [label, output] of Object.entries({ ...outputs, hidden_states: Tensor.stack([...hidden_states]) })) {
    expectClose(output.data, caseOutputs[`${name}/${label}`]!.data as Float32Array, 2e-5, label);
  }
  expect(warn).not.toHaveBeenCalled();
  warn.mockRestore();

  const vision = CLIPVisionModelWithProjection.from_single_file(from, { device: "wasm", config });
  await expect(vision).rejects.toThrow(/CLIPVisionModelWithProjection is not read from a checkpoint in one file/);
});
