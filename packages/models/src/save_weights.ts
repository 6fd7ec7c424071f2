import { type Directory, writeFile } from "@diffusers-web/core";
import { weightTypeBytes } from "./safetensors.ts";
import type { LazyTensor } from "./weight_transforms.ts";

/**
 * Writes tensors to one safetensors file, in the types that they have. They are read one after the other, as they are
 * written.
 *
 * @see https://github.com/huggingface/safetensors#format
 */
export async function saveSafetensors(
  directory: Directory,
  name: string,
  tensors: Iterable<readonly [string, LazyTensor]>,
): Promise<void> {
  // The widest first: each tensor then begins where its elements may lie.
  const inOrder = [...tensors].sort(
    ([a, one], [b, other]) => weightTypeBytes[other.dtype] - weightTypeBytes[one.dtype] || (a < b ? -1 : 1),
  );
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const [key, { dtype, shape }] of inOrder) {
    const end = at + shape.reduce((product, size) => product * size, weightTypeBytes[dtype]);
    header[key] = { dtype, shape, data_offsets: [at, end] };
    at = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(8 + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(json, 8);
  function* pieces(): Iterable<Uint8Array> {
    yield head;
    for (const [, tensor] of inOrder) yield tensor.read();
  }
  await writeFile(directory, name, pieces());
}
