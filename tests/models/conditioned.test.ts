import type { Source, Tensor } from "@diffusers-web/core";
import {
  ControlNetModel,
  MultiAdapter,
  MultiControlNetModel,
  type MultiControlNetOptions,
  T2IAdapter,
  UNet2DConditionModel,
} from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixtureGzip, fixtureTensors } from "../support/fixtures.ts";
import { type CaseTable, caseInputs, memorySource, safetensorsBytes } from "./cases.ts";

const table = JSON.parse(fixtureGzip("models/cases/conditioned.json.gz")) as CaseTable;
const expected = fixtureTensors("models/cases/conditioned.safetensors");
type Case = CaseTable["cases"][number];

/** The folder of a pipeline with the case's models. */
function pipelineFolder({ name, config }: Case): Source {
  const files: Record<string, Uint8Array> = {};
  for (const [key, written] of Object.entries(config)) {
    const shapes = table.shapes[name]!.filter(([weight]) => weight.startsWith(`${key}.`));
    files[`${key}/config.json`] = new TextEncoder().encode(JSON.stringify(written));
    files[`${key}/diffusion_pytorch_model.safetensors`] = safetensorsBytes(
      shapes.map(([weight, shape, formulaName]) => [weight.slice(key.length + 1), shape, formulaName] as const),
    );
  }
  return memorySource(name, files);
}

/** The counterpart of `Conditioned.forward` in conditioned.py. */
async function run(one: Case, source: Source): Promise<Record<string, Tensor>> {
  const count = (kind: string): number => Object.keys(one.config).filter((key) => key.startsWith(kind)).length;
  const load = (subfolder: string) => ({ subfolder, device: "wasm" }) as const;
  const inputs = caseInputs(one) as Record<string, Tensor> & { control?: Record<string, Tensor>; pictures?: unknown };
  const { sample, timestep, encoder_hidden_states: states, control, pictures, adapter_weights, text = states } = inputs;
  const outputs: Record<string, Tensor> = {};
  const residuals: Record<string, readonly Tensor[] | Tensor> = {};

  if (control !== undefined) {
    const isMulti = count("controlnet") > 1;
    await using net = isMulti
      ? await MultiControlNetModel.from_pretrained(source, load("controlnet"))
      : await ControlNetModel.from_pretrained(source, load("controlnet"));
    if (net instanceof MultiControlNetModel) expect(net.nets.length).toBe(count("controlnet"));
    const { controlnet_cond, ...options } = control;
    const call = net.forward.bind(net) as unknown as MultiControlNetModel["forward"];
    const given = options as MultiControlNetOptions;
    const output = await call(sample!, timestep!, states!, controlnet_cond as unknown as Tensor[], given);
    residuals["down_block_additional_residuals"] = output.down_block_res_samples;
    residuals["mid_block_additional_residual"] = output.mid_block_res_sample;
    Object.assign(outputs, { down_1: output.down_block_res_samples[1], mid: output.mid_block_res_sample });
  }
  if (pictures !== undefined) {
    const isMulti = count("adapter") > 1;
    await using adapter = isMulti
      ? await MultiAdapter.from_pretrained(source, load("adapter"))
      : await T2IAdapter.from_pretrained(source, load("adapter"));
    const features =
      adapter instanceof MultiAdapter
        ? await adapter(pictures as Tensor[], adapter_weights as unknown as number[] | undefined)
        : await adapter(pictures as Tensor);
    residuals["down_intrablock_additional_residuals"] = features;
    outputs["feature"] = features.at(-1)!;
  }
  await using unet = await UNet2DConditionModel.from_pretrained(source, load("unet"));
  const batch = text!.dims[0]!;
  const samples = batch > sample!.dims[0]! ? sample!.repeat_interleave(batch, 0) : sample!;
  outputs["sample"] = (await unet(samples, timestep!, text!, residuals)).sample;
  return outputs;
}

describe("what conditions a UNet, end to end", () => {
  it.each(table.cases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const outputs = await run(one, pipelineFolder(one));
    for (const [label, output] of Object.entries(outputs)) {
      const reference = expected[`${name}/${label}`]!;
      expect(output.dims, label).toEqual(reference.dims);
      // As in models.test.ts: other orders of summing.
      expectClose(output.data, reference.data as Float32Array, 2e-5, `${name}/${label}`);
    }
  });
});
