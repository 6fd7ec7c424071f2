import { type DataType, Tensor, ValueError } from "@diffusers-web/core";

/**
 * A codebook: vectors that latents are rounded to.
 *
 * @see Diffusers `VectorQuantizer`
 */
export class VectorQuantizer {
  /** @param entries `[count, size]`, row by row */
  constructor(
    private readonly entries: Float32Array,
    private readonly count: number,
    private readonly size: number,
  ) {}

  /**
   * Each pixel's vector in place of the nearest one that the codebook has.
   *
   * @param z `[batch, size, height, width]`
   * @returns what it became, and the mean squared distance between both, weighted as in training
   */
  quantize(z: Tensor): { readonly quant: Tensor; readonly commit_loss: Tensor } {
    const { entries, size } = this;
    const [batch, , height, width] = z.dims as [number, number, number, number];
    const pixels = height * width;
    const data = new Float32Array(z.size);
    const vector = new Float64Array(size);
    let sum = 0;
    for (let item = 0; item < batch; item++) {
      for (let pixel = 0; pixel < pixels; pixel++) {
        const at = item * size * pixels + pixel;
        for (let i = 0; i < size; i++) vector[i] = z.data[at + i * pixels]!;
        const entry = this.nearest(vector) * size;
        for (let i = 0; i < size; i++) {
          const value = z.data[at + i * pixels]!;
          const difference = Math.fround(entries[entry + i]! - value);
          // As Diffusers adds it, whose sum is not always the entry to the last bit.
          data[at + i * pixels] = value + difference;
          sum += difference * difference;
        }
      }
    }
    // `beta` 0.25 of one half of the loss, both halves being the same number here.
    const commit_loss = new Tensor("float32", Float32Array.of((1.25 * sum) / z.size), []);
    return { quant: new Tensor("float32", data, z.dims), commit_loss };
  }

  /**
   * The vectors of codes.
   *
   * @param codes numbers of entries, any dims
   * @param shape `[batch, height, width, size]`
   * @returns `[batch, size, height, width]`
   * @throws ValueError for a code that there is no entry for, or a shape of another number of values.
   */
  lookUp(codes: Tensor<DataType>, shape: readonly number[]): Tensor {
    const { entries, count, size } = this;
    const numbers = Array.from(codes.to("float32").data);
    const stranger = numbers.find((code) => !(Number.isInteger(code) && code >= 0 && code < count));
    if (stranger !== undefined) {
      throw new ValueError(`There is no code ${stranger}: the codebook has ${count}, from 0 on.`, {
        field: "h",
        found: String(stranger),
        expected: `0 to ${count - 1}`,
      });
    }
    const values = shape.reduce((product, dim) => product * dim, 1);
    if (shape.length !== 4 || shape[3] !== size || values !== numbers.length * size) {
      const expected = `[batch, height, width, ${size}] for ${numbers.length} codes`;
      throw new ValueError(`\`shape\` is [${shape}], but has to be ${expected}.`, {
        field: "shape",
        found: `[${shape}]`,
        expected,
      });
    }
    const data = new Float32Array(values);
    numbers.forEach((code, i) => {
      data.set(entries.subarray(code * size, (code + 1) * size), i * size);
    });
    return new Tensor("float32", data, shape).permute(0, 3, 1, 2);
  }

  /** The entry with the smallest distance; the first of several. */
  private nearest(vector: Float64Array): number {
    const { entries, count, size } = this;
    let best = 0;
    let least = Number.POSITIVE_INFINITY;
    for (let entry = 0; entry < count; entry++) {
      let distance = 0;
      for (let i = 0; i < size; i++) {
        const difference = vector[i]! - entries[entry * size + i]!;
        distance += difference * difference;
      }
      if (distance < least) {
        least = distance;
        best = entry;
      }
    }
    return best;
  }
}
