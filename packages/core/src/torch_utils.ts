import { ValueError } from "./errors.ts";
import { Generator } from "./generator.ts";
import { Tensor } from "./tensor.ts";

/** Where {@link randn_tensor} takes its numbers from. */
export interface RandnTensorOptions {
  /** One generator for the whole tensor, or one for each batch item. Default: a new one, seeded from real randomness. */
  readonly generator?: Generator | readonly Generator[] | null | undefined;
}

/**
 * A tensor of normal noise, float32. With a list, item `i` of the batch comes from generator `i` alone, so that a
 * picture does not depend on the batch it was made in.
 *
 * @param dims `[batch, ...]`
 * @throws ValueError for a list that is shorter than the batch.
 * @see Diffusers `randn_tensor`
 */
export function randn_tensor(dims: readonly number[], options: RandnTensorOptions = {}): Tensor {
  const generator = options.generator ?? undefined;
  if (!Array.isArray(generator)) {
    const single = (generator as Generator | undefined) ?? randomlySeeded();
    return single.randn(dims);
  }
  const generators = generator as readonly Generator[];
  if (generators.length === 1) return generators[0]!.randn(dims);
  const batch = dims[0] ?? 1;
  if (generators.length < batch) {
    throw new ValueError(
      `There are ${generators.length} generators for a batch of ${batch}. Pass one generator, or one for each item.`,
      { field: "generator", found: `${generators.length} generators`, expected: `${batch} generators` },
    );
  }
  const item = [1, ...dims.slice(1)];
  return Tensor.cat(
    generators.slice(0, batch).map((one) => one.randn(item)),
    0,
  );
}

function randomlySeeded(): Generator {
  const generator = new Generator();
  generator.seed();
  return generator;
}
