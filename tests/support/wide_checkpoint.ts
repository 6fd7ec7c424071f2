import { safetensors } from "./safetensors.ts";

/**
 * A checkpoint of Stable Diffusion in one file, in the original layout, whose first convolution takes more channels than latents
 * have: their weights are 0, so that what is new does not count.
 *
 * @param file one whose UNet takes 4 channels
 */
export function withInputs(channels: number, file: Uint8Array): Uint8Array {
  const name = "model.diffusion_model.input_blocks.0.0.weight";
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const entries: Record<string, [string, number[], number]> = {};
  const parts: Uint8Array[] = [];
  for (const [key, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (key === "__metadata__") continue;
    let bytes = file.subarray(...(data_offsets.map((at) => at + 8 + length) as [number, number]));
    if (key === name) {
      const [count, , ...kernel] = shape as [number, number, number, number];
      const size = bytes.length / count;
      const wide = new Uint8Array((bytes.length / 4) * channels);
      for (let i = 0; i < count; i++) wide.set(bytes.subarray(i * size, (i + 1) * size), (i * size * channels) / 4);
      bytes = wide;
      shape.splice(0, 4, count, channels, ...kernel);
    }
    entries[key] = [dtype, shape, bytes.length];
    parts.push(bytes);
  }
  return safetensors(entries, { data: Buffer.concat(parts) });
}
