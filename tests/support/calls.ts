import { Generator, RawImage, Tensor } from "@diffusers-web/core";
import type { FixtureTensor } from "./fixture_tensors.ts";

/** A call of a pipeline that a script of tests/fixtures/pipelines wrote down, most by given.py. */
export interface Call {
  readonly name: string;
  readonly checkpoint: string;
  readonly scheduler: { readonly class: string; readonly kwargs: object } | null;
  readonly options: Readonly<Record<string, unknown>> & { readonly seed: number | string | readonly number[] };
}

export type Tensors = Readonly<Record<string, FixtureTensor>>;

export const seeded = (seed: number): Generator => new Generator().manual_seed(seed);

export const tensorOf = ({ data, dims }: FixtureTensor): Tensor => new Tensor("float32", data as Float32Array, dims);

export const pictureOf = ({ data, dims: [height, width, channels = 1] }: FixtureTensor): RawImage =>
  new RawImage(data as Uint8Array, width!, height!, channels as 1 | 3 | 4);

/** A picture by name, a list of them (or of lists), or the tensor that Python drew. */
export function imageOf(name: string, image: unknown, tensors: Tensors): unknown {
  if (typeof image === "string") return pictureOf(tensors[`picture/${image}`]!);
  const list = image as readonly unknown[];
  if (typeof list[0] === "number") return tensorOf(tensors[name]!);
  return list.map((one, i) => imageOf(`${name}/${i}`, one, tensors));
}

/** What a call gives as pictures. */
const images = ["image", "mask_image", "control_image"];

/** The options of a call, with its generators, pictures and tensors, which the scripts keep under one of several names. */
export function optionsOf(
  { name, options }: Pick<Call, "name" | "options">,
  tensors: Tensors,
): Record<string, unknown> {
  const { seed, low: _low, normal: _normal, ...rest } = options as Record<string, unknown> & Call["options"];
  const made: Record<string, unknown> = { ...rest };
  made["generator"] = Array.isArray(seed) ? seed.map(seeded) : seeded(Number(seed));
  for (const [key, value] of Object.entries(rest)) {
    const names = [`given/${name}/${key}`, `${name}/given/${key}`];
    // `${name}/image` is what the call makes.
    if (images.includes(key)) {
      const found = [...names, `${name}/given`].find((one) =>
        Object.keys(tensors).some((key) => `${key}/`.startsWith(`${one}/`)),
      );
      made[key] = imageOf(found ?? "", value, tensors);
    } else {
      const found = [...names, `${name}/${key}`].find((one) => one in tensors);
      if (found !== undefined) made[key] = tensorOf(tensors[found]!);
    }
  }
  if ("timesteps" in made || "sigmas" in made) delete made["num_inference_steps"];
  return made;
}
