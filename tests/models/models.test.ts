import { describe, it } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { runCase } from "./cases.ts";
import { caseOutputs, caseShapes, modelCases } from "./cases_node.ts";

// float32 on both sides, other orders of summation: a few 1e-6 of the scale were measured; the issue asks for 1e-4.
const tolerance = 2e-5;

describe("models compute what Diffusers and transformers compute", () => {
  it.each(modelCases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const outputs = await runCase(one, caseShapes[name]!, { device: "wasm" });
    for (const [label, output] of Object.entries(outputs)) {
      const reference = caseOutputs[`${name}/${label}`]!;
      if (String(output.dims) !== String(reference.dims))
        throw new Error(`${label}: [${output.dims}], not [${reference.dims}]`);
      expectClose(output.data, reference.data as Float32Array, tolerance, `${name}/${label}`);
    }
  });
});
