import { Generator, type Tensor } from "@diffusers-web/core";

/** A tensor of a case's file: name in the file, shape, name in the formula. */
export type TensorShape = readonly [name: string, shape: readonly number[], formulaName: string];

/** CRC-32 of a name, which seeds its numbers. */
export function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** Numbers drawn from a name. */
export function seeded(name: string, shape: readonly number[]): Tensor {
  return new Generator().manual_seed(crc32(name)).randn(shape);
}

/** The weight that the script gave the tensor of this name. */
export function formula(name: string, shape: readonly number[]): Tensor {
  const noise = seeded(name, shape);
  if (shape.length === 1) return /(weight|running_var)$/.test(name) ? noise.mul(0.25).add(1) : noise.mul(0.125);
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
