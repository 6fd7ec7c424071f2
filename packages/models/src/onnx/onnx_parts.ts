import {
  type ConfigDict,
  ModelNotFoundError,
  type OpenOptions,
  parseConfig,
  readText,
  type Source,
  subSource,
  UnsupportedModelError,
} from "@diffusers-web/core";
import { type OnnxFile, openOnnx } from "./onnx_file.ts";

/** One ONNX file of a model, and what this library knows to feed it and to read from it. */
export interface OnnxPart {
  /** Relative to what the model is loaded from. */
  readonly file: string;
  /** Whether the model can do without it. */
  readonly optional?: boolean;
  /** The inputs that can be fed. Those in `required` have to be there. */
  readonly inputs: readonly string[];
  readonly required: readonly string[];
  /** The graph has to have at least one of these outputs. */
  readonly outputs: readonly string[];
}

/** The parts of a model, by name. The config lies beside the first. */
export type OnnxParts = Readonly<Record<string, OnnxPart>>;

/**
 * Opens a model's parts, and checks that they are that model's.
 *
 * @throws ModelNotFoundError for one that is missing, IntegrityError for a damaged one.
 * @throws UnsupportedModelError for a graph that asks for other inputs, or gives other outputs.
 */
export async function openParts(
  { name, parts }: { readonly name: string; readonly parts: OnnxParts },
  folder: Source,
  options: OpenOptions,
): Promise<Record<string, OnnxFile>> {
  const files: Record<string, OnnxFile> = {};
  try {
    for (const [key, part] of Object.entries(parts)) {
      const file = await openOnnx(folder, part.file, options);
      if (file !== undefined) {
        files[key] = file;
        checkGraph(name, file, part);
      } else if (part.optional !== true) {
        throw new ModelNotFoundError(`${folder.name} has no ${part.file}, which ${name} needs.`, {
          file: part.file,
          className: name,
          found: "no such file",
          expected: part.file,
        });
      }
    }
    return files;
  } catch (error) {
    closeAll(files);
    throw error;
  }
}

export function closeAll(files: Readonly<Record<string, OnnxFile>>): void {
  for (const file of Object.values(files)) file.close();
}

function checkGraph(className: string, file: OnnxFile, part: OnnxPart): void {
  const refuse = (what: string, found: readonly string[], expected: readonly string[], field: string): never => {
    throw new UnsupportedModelError(`${file.path}: ${what}. ${className} knows ${expected.join(", ")}.`, {
      file: file.path,
      className,
      field,
      found: found.join(", "),
      expected: expected.join(", "),
    });
  };
  const inputs = file.inputs.map(({ name }) => name);
  const unknown = inputs.find((name) => !part.inputs.includes(name));
  if (unknown !== undefined) {
    refuse(`the graph asks for the input \`${unknown}\`, which nothing here feeds`, inputs, part.inputs, unknown);
  }
  const missing = part.required.find((name) => !inputs.includes(name));
  if (missing !== undefined) refuse(`the graph has no input \`${missing}\``, inputs, part.inputs, missing);
  const outputs = file.outputs.map(({ name }) => name);
  if (!part.outputs.some((name) => outputs.includes(name))) {
    refuse(`the graph's outputs are ${outputs.join(", ")}`, outputs, part.outputs, part.outputs[0]!);
  }
  const strange = file.inputs.find(({ type }) => type.startsWith("type "));
  if (strange !== undefined) {
    refuse(`the input \`${strange.name}\` is of ONNX's ${strange.type}`, [strange.type], ["float32"], strange.name);
  }
}

/** The config beside the first part; undefined when the export came without, as Diffusers' own do. */
export async function readPartConfig(
  cls: { readonly parts: OnnxParts; readonly config_name: string },
  folder: Source,
  signal: AbortSignal | undefined,
): Promise<ConfigDict | undefined> {
  const { file } = Object.values(cls.parts)[0]!;
  const beside = subSource(folder, file.slice(0, Math.max(0, file.lastIndexOf("/"))));
  const text = await readText(beside, cls.config_name, { signal });
  return text === undefined ? undefined : parseConfig(text, cls.config_name, beside.name);
}
