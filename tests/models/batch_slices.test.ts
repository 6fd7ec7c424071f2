/** A UNet's batch in parts: what every input does to an item, it does to the same item of a part. */
import { DeviceError, Generator, type Tensor, ValueError } from "@diffusers-web/core";
import { UNet2DConditionModel } from "@diffusers-web/models";
import { afterEach, beforeEach, describe, expect, it, test, vi } from "vitest";
import { BatchSlices } from "../../packages/models/src/unets/batch_slices.ts";
import { expectClose } from "../support/allclose.ts";
import { type ModelCase, runCase } from "./cases.ts";
import { caseOutputs, caseShapes, modelCases } from "./cases_node.ts";

const batchOf = ({ call }: ModelCase): number => (call["sample"] as { randn: number[] } | undefined)?.randn?.[0] ?? 1;
/** The names of a call's inputs, those within others too. */
const inputsOf = (call: object): string =>
  JSON.stringify(call, (key, value: unknown) =>
    key === "randn" || key === "values" || key === "setup" || value === null || typeof value !== "object"
      ? undefined
      : value,
  );
const batches = modelCases.filter((one) => one.className === "UNet2DConditionModel" && batchOf(one) > 1);
// One of each set of inputs that a UNet may be told.
const chosen = [...new Map(batches.map((one) => [inputsOf(one.call), one])).values()];

describe("one item at a time gives what the batch gives", () => {
  let runs = 0;
  beforeEach(() => {
    runs = 0;
    const original = UNet2DConditionModel.from_pretrained.bind(UNet2DConditionModel);
    vi.spyOn(UNet2DConditionModel, "from_pretrained").mockImplementation(async (...args: unknown[]) => {
      const model = await (original as (...all: unknown[]) => Promise<UNet2DConditionModel>)(...args);
      model.set_batch_slice(1);
      model.before_run = async () => {
        runs += 1;
      };
      return model as never;
    });
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it.each(chosen.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const outputs = await runCase(one, caseShapes[name]!, { device: "wasm" });
    const { data } = caseOutputs[`${name}/sample`]!;
    expectClose(outputs["sample"]!.data, data as Float32Array, 2e-5, name);
    expect(runs).toBe(one.call["perturbed_attention"] === undefined ? batchOf(one) : 1);
  });
});

/** Fails as a device does that is out of memory, above so many items. */
function device(room: number) {
  const sizes: number[] = [];
  const run = async ({ sample }: Readonly<Record<string, Tensor>>): Promise<Tensor> => {
    sizes.push(sample!.dims[0]!);
    if (sample!.dims[0]! > room) throw new DeviceError("out of memory");
    return sample!.mul(2);
  };
  return { sizes, run };
}

describe('"auto"', () => {
  const sample = new Generator().manual_seed(0).randn([6, 2, 1, 1]);

  test("runs all at once, and less from when the device fails", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
    const slices = new BatchSlices("auto");
    const { sizes, run } = device(2);
    expect((await slices.run({ sample }, 6, run)).data).toEqual(sample.mul(2).data);
    expect(sizes).toEqual([6, 3, 1, 1, 1, 1, 1, 1]);
    expect(warn.mock.calls.flat()).toHaveLength(2);
    sizes.length = 0;
    await slices.run({ sample }, 6, run);
    expect(sizes).toEqual([1, 1, 1, 1, 1, 1]);
    warn.mockRestore();
  });

  test("fails with the device where one item is too much, and at other errors", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => undefined);
    await expect(new BatchSlices("auto").run({ sample }, 6, device(0).run)).rejects.toThrow(DeviceError);
    const wrong = async (): Promise<Tensor> => {
      throw new ValueError("wrong", { field: "sample" });
    };
    await expect(new BatchSlices("auto").run({ sample }, 6, wrong)).rejects.toThrow(ValueError);
    await expect(new BatchSlices(4).run({ sample }, 6, device(2).run)).rejects.toThrow(DeviceError);
    vi.restoreAllMocks();
  });

  test("parts are alike", async () => {
    const { sizes, run } = device(6);
    await new BatchSlices(4).run({ sample }, 6, run);
    expect(sizes).toEqual([3, 3]);
  });
});

test.each([0, 1.5, -1, "half"])("%j is refused", (slice) => {
  const model = new UNet2DConditionModel();
  expect(() => model.set_batch_slice(slice as number)).toThrow(ValueError);
});
