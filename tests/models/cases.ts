import { type DataType, Generator, type Source, type SourceFile, Tensor } from "@diffusers-web/core";
import {
  AutoencoderKL,
  CLIPTextModel,
  type ModelLoadOptions,
  type ModelMixin,
  UNet2DConditionModel,
  type UNet2DConditionOptions,
  UNet2DModel,
} from "@diffusers-web/models";

/*
 * The cases of tests/fixtures/models/make_models.py, for any place a model runs: nothing here needs Node. The weights and
 * the inputs are made from the formula of their names that the script used.
 */

/** A tensor of a case's call, as cases.json describes it. */
type Spec =
  | number
  | { readonly randn: readonly number[] }
  | { readonly values: unknown; readonly dtype: "float32" | "int64" }
  | readonly Spec[]
  | { readonly [name: string]: Spec };

/** An entry of cases.json. */
export interface ModelCase {
  readonly name: string;
  readonly className: keyof typeof weightsNames;
  readonly config: Readonly<Record<string, unknown>>;
  readonly call: Readonly<Record<string, Spec>>;
}

/** An entry of shapes.json: name in the file, shape, name in the formula. */
export type TensorShape = readonly [name: string, shape: readonly number[], formulaName: string];

const weightsNames = {
  UNet2DConditionModel: "diffusion_pytorch_model",
  UNet2DModel: "diffusion_pytorch_model",
  AutoencoderKL: "diffusion_pytorch_model",
  CLIPTextModel: "model",
} as const;

/** CRC-32 of a name, which seeds its numbers. */
export function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function seeded(name: string, shape: readonly number[]): Tensor {
  return new Generator().manual_seed(crc32(name)).randn(shape);
}

/** The weight that the script gave the tensor of this name. */
export function formula(name: string, shape: readonly number[]): Tensor {
  const noise = seeded(name, shape);
  if (shape.length === 1) return name.endsWith("weight") ? noise.mul(0.25).add(1) : noise.mul(0.125);
  const fanIn = shape.slice(1).reduce((product, dim) => product * dim, 1);
  return noise.mul(Math.fround(fanIn ** -0.5));
}

/** The bytes of a safetensors file with tensors of these shapes. */
export function safetensorsBytes(shapes: readonly TensorShape[]): Uint8Array {
  const header: Record<string, unknown> = {};
  let offset = 0;
  const parts = shapes.map(([name, shape, formulaName]) => {
    const { data } = formula(
      formulaName,
      shape.length === 4 && formulaName.includes("attentions") ? squeezed(shape) : shape,
    );
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  });
  const json = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + offset);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  let at = 8 + json.length;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** An attention projection saved as a 1x1 convolution is the formula's matrix. */
function squeezed(shape: readonly number[]): readonly number[] {
  return shape[2] === 1 && shape[3] === 1 ? shape.slice(0, 2) : shape;
}

/** A source of files in memory. */
export function memorySource(name: string, files: Readonly<Record<string, Uint8Array>>): Source {
  return {
    name,
    async open(path): Promise<SourceFile | undefined> {
      const bytes = files[path];
      if (bytes === undefined) return undefined;
      return { path, size: bytes.length, readSync: (begin, end) => bytes.subarray(begin, end), close: () => {} };
    },
  };
}

/** The folder that `save_pretrained` would have made of a case's model. */
export function caseSource({ name, className, config }: ModelCase, shapes: readonly TensorShape[]): Source {
  return memorySource(name, {
    "config.json": new TextEncoder().encode(JSON.stringify(config)),
    [`${weightsNames[className]}.safetensors`]: safetensorsBytes(shapes),
  });
}

function evaluate(spec: Spec, name: string): unknown {
  if (typeof spec === "number") return spec;
  if (Array.isArray(spec)) return spec.map((item: Spec, i) => evaluate(item, `${name}.${i}`));
  const fields = spec as { readonly [name: string]: Spec };
  if ("randn" in fields) return seeded(name, fields["randn"] as readonly number[]);
  if ("values" in fields) return Tensor.from(fields["values"] as never, fields["dtype"] as unknown as DataType);
  return Object.fromEntries(Object.entries(fields).map(([key, item]) => [key, evaluate(item, `${name}.${key}`)]));
}

/**
 * Loads a case's model, calls it as the script did, and gives its outputs by name.
 *
 * @param prepare what to do with the model between loading and calling
 */
export async function runCase(
  one: ModelCase,
  shapes: readonly TensorShape[],
  options: ModelLoadOptions,
  prepare: (model: ModelMixin<object>) => void = () => {},
): Promise<Record<string, Tensor>> {
  const inputs = Object.fromEntries(
    Object.entries(one.call).map(([key, spec]) => [key, evaluate(spec, `${one.name}/${key}`)]),
  ) as Record<string, Tensor>;
  const source = caseSource(one, shapes);
  switch (one.className) {
    case "UNet2DConditionModel": {
      const model = await UNet2DConditionModel.from_pretrained(source, options);
      prepare(model);
      const { sample, timestep, encoder_hidden_states, ...rest } = inputs;
      const output = await model(sample!, timestep!, encoder_hidden_states!, rest as UNet2DConditionOptions);
      await model.dispose();
      return { sample: output.sample };
    }
    case "UNet2DModel": {
      const model = await UNet2DModel.from_pretrained(source, options);
      prepare(model);
      const { sample, timestep, ...rest } = inputs;
      const output = await model(sample!, timestep!, rest);
      await model.dispose();
      return { sample: output.sample };
    }
    case "AutoencoderKL": {
      const model = await AutoencoderKL.from_pretrained(source, options);
      prepare(model);
      const { latent_dist } = await model.encode(inputs["x"]!);
      const outputs = {
        mean: latent_dist.mean,
        std: latent_dist.std,
        drawn: latent_dist.sample(new Generator().manual_seed(7)),
        decoded: (await model.decode(inputs["z"]!)).sample,
        forward: (await model(inputs["x"]!)).sample,
      };
      await model.dispose();
      return outputs;
    }
    case "CLIPTextModel": {
      const model = await CLIPTextModel.from_pretrained(source, options);
      prepare(model);
      const { input_ids, ...rest } = inputs;
      const output = await model(input_ids as unknown as Tensor<"int64">, rest);
      const outputs = {
        last_hidden_state: output.last_hidden_state,
        pooler_output: output.pooler_output,
        hidden_states: Tensor.stack([...output.hidden_states]),
        skipped: await model.final_layer_norm(output.hidden_states.at(-2)!),
      };
      await model.dispose();
      return outputs;
    }
  }
}
