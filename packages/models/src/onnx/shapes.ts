import type { OnnxFile, OnnxValue } from "./onnx_file.ts";

/** The size of an input's dimension; undefined where it is open, and for an input that the graph does not have. */
export function inputSize(file: OnnxFile, name: string, axis: number): number | undefined {
  return sizeOf(file.inputs, name, axis);
}

/** The same of an output. */
export function outputSize(file: OnnxFile, name: string, axis: number): number | undefined {
  return sizeOf(file.outputs, name, axis);
}

function sizeOf(values: readonly OnnxValue[], name: string, axis: number): number | undefined {
  return values.find((value) => value.name === name)?.dims?.[axis];
}

/** The dims of the weight that ends on `name`: exporters put the module's name before what Diffusers calls it. */
export function weightDims(file: OnnxFile, name: string): readonly number[] | undefined {
  for (const [key, dims] of file.weights) if (key === name || key.endsWith(`.${name}`)) return dims;
  return undefined;
}
