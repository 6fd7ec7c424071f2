import { expect } from "vitest";
import { expectClose } from "./allclose.ts";
import type { Tensors } from "./calls.ts";
import { expectSamePicture } from "./pictures.ts";

interface Values {
  readonly dims: readonly number[];
  readonly data: ArrayLike<number> | ArrayLike<bigint>;
}

/**
 * Elementwise comparison of what a pipeline's call made with what Python's made: latents of the last step, and pictures
 * `[pictures, height, width, channels]` where Python has any.
 */
export function expectAsInPython(
  name: string,
  { latents, images }: { readonly latents: Values; readonly images: Values | undefined },
  expected: Tensors,
  tolerance: number,
): void {
  const latent = expected[`${name}/latent`] ?? expected[`${name}/last`];
  const drawn = expected[`${name}/image`];
  expect(latent ?? drawn, `Python's results of ${name}`).toBeDefined();
  if (latent !== undefined) {
    expect(latents.dims).toEqual(latent.dims);
    expectClose(latents.data, latent.data as Float32Array, tolerance, name);
  }
  if (drawn === undefined) return;
  // Gray pictures have no channels in Python.
  expect(images!.dims.slice(0, 3)).toEqual(drawn.dims.slice(0, 3));
  expectSamePicture(images!.data as ArrayLike<number>, drawn.data as Uint8Array);
}
