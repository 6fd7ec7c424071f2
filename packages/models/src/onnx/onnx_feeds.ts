import { type DataType, type Tensor, ValueError } from "@diffusers-web/core";
import type { OnnxFile } from "./onnx_file.ts";

/** What a call feeds, by the names of the graph's inputs; an option that was not given is undefined. */
export type OnnxFeeds = Readonly<Record<string, Tensor<DataType> | undefined>>;

/** What the graph is fed: of its inputs' types, each there. */
export function matchFeeds(className: string, file: OnnxFile, given: OnnxFeeds): Record<string, Tensor<DataType>> {
  const fail = (field: string, message: string, found: string, expected: string): never => {
    throw new ValueError(`${className} (${file.path}): ${message}.`, {
      file: file.path,
      className,
      field,
      found,
      expected,
    });
  };
  const names = file.inputs.map(({ name }) => name);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || names.includes(name)) continue;
    fail(name, `\`${name}\` was passed, which is no input of this export`, name, names.join(", "));
  }
  const feeds = file.inputs.map(({ name, type, dims }): [string, Tensor<DataType>] => {
    const value = given[name] ?? fail(name, `the graph needs \`${name}\``, "nothing", name);
    const fits =
      dims === undefined ||
      (dims.length === value.dims.length && dims.every((dim, i) => dim === undefined || dim === value.dims[i]));
    const expected = `[${dims?.map((dim) => dim ?? "any").join(", ")}]`;
    if (!fits)
      fail(name, `\`${name}\` has dims [${value.dims}], but the export takes ${expected}`, `[${value.dims}]`, expected);
    return [name, value.to(type as DataType)];
  });
  return Object.fromEntries(feeds);
}
