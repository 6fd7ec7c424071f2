import { UnsupportedModelError, ValueError } from "../errors.ts";
import { Tensor } from "../tensor.ts";
import { fma32 } from "./float32.ts";

/** How {@link interpolateTo} finds values between those it has; each goes with certain numbers of spatial dimensions. */
export type InterpolationMode = "nearest" | "nearest-exact" | "linear" | "bilinear" | "bicubic" | "trilinear" | "area";

/** The numbers of spatial dimensions that a mode is for. */
const spatialDims: Readonly<Record<InterpolationMode, readonly number[]>> = {
  nearest: [1, 2, 3],
  "nearest-exact": [1, 2, 3],
  linear: [1],
  bilinear: [2],
  bicubic: [2],
  trilinear: [3],
  area: [1, 2, 3],
};

/** Along one axis, which entries make up each new one, and how much of each: `count` per new entry, in torch's order. */
interface Taps {
  readonly count: number;
  readonly index: Int32Array;
  readonly weight: Float32Array;
}

const f = Math.fround;

/**
 * Resizes the spatial dimensions of a tensor, in float32 as torch does on a CPU: corners are not aligned, nothing is
 * smoothed. "bicubic", "bilinear" to small sizes, and "area" to a single entry differ from torch's in the last bits.
 *
 * @param x `[batch, channels, ...spatial]`, 1 to 3 spatial dimensions
 * @param size the new spatial dimensions
 * @throws UnsupportedModelError for a mode that is unknown, or not for so many dimensions.
 * @throws ValueError for a size that is no positive whole number.
 * @see torch `torch.nn.functional.interpolate`
 */
export function interpolateTo(where: string, x: Tensor, size: readonly number[], mode: string): Tensor {
  const from = x.dims.slice(2);
  const fits = Object.entries(spatialDims).filter(([, counts]) => counts.includes(from.length));
  if (!fits.some(([name]) => name === mode)) {
    const expected = fits.map(([name]) => name).join(", ");
    throw new UnsupportedModelError(
      `${where} cannot resize a sample of shape [${x.dims}] by "${mode}": of ${x.dims.length} dimensions it can by ${expected || "none"}.`,
      { className: where, field: "upscale_mode", found: mode, expected },
    );
  }
  if (from.length !== size.length || !size.every((n) => Number.isInteger(n) && n > 0)) {
    throw new ValueError(`${where} cannot resize a sample of shape [${x.dims}] to [${size}].`, {
      className: where,
      field: "scale_factors",
      found: `[${size}]`,
      expected: `${from.length} positive whole numbers`,
    });
  }
  const dims = [...x.dims.slice(0, 2), ...size];
  if (mode === "area") return new Tensor("float32", areaMeans(x, size), dims);

  // torch has several kernels, whose compiler fused the multiplication and the addition in some.
  const fused = mode === "nearest-exact" || mode === "bicubic" || (mode === "bilinear" && size[0]! + size[1]! <= 128);
  // One axis after the other, the last one first: each sum is of the same numbers in the same order as torch's.
  let data = x.data;
  let inner = 1;
  for (let axis = size.length - 1; axis >= 0; axis--) {
    data = alongAxis(data, from[axis]!, inner, tapsOf(mode, from[axis]!, size[axis]!, fused));
    inner *= size[axis]!;
  }
  return new Tensor("float32", data, dims);
}

function tapsOf(mode: string, from: number, to: number, fused: boolean): Taps {
  const scale = f(from / to);
  // Where an entry of the new axis lies on the old one, centre on centre.
  const sources = Float32Array.from({ length: to }, (_, i) =>
    fused ? fma32(scale, i + 0.5, -0.5) : f(scale * (i + 0.5)) - 0.5,
  );
  if (mode === "nearest")
    return nearestTaps(
      sources.map((_, i) => i * scale),
      from,
    );
  if (mode === "nearest-exact")
    return nearestTaps(
      sources.map((source) => Math.max(source, 0) + 0.5),
      from,
    );
  if (mode === "bicubic") return cubicTaps(sources, from);
  return linearTaps(from === to ? sources.map((_, i) => i) : sources.map((source) => Math.max(source, 0)), from);
}

function nearestTaps(sources: Float32Array, from: number): Taps {
  const index = Int32Array.from(sources, (source) => Math.min(Math.floor(source), from - 1));
  return { count: 1, index, weight: new Float32Array(index.length).fill(1) };
}

function linearTaps(sources: Float32Array, from: number): Taps {
  const index = new Int32Array(2 * sources.length);
  const weight = new Float32Array(2 * sources.length);
  for (const [i, source] of sources.entries()) {
    const low = Math.min(Math.floor(source), from - 1);
    const lambda = Math.min(Math.max(f(source - low), 0), 1);
    index.set([Math.min(low + 1, from - 1), low], 2 * i);
    weight.set([lambda, 1 - lambda], 2 * i);
  }
  return { count: 2, index, weight };
}

/** Cubic convolution with a = -0.75. @see R. Keys, "Cubic convolution interpolation for digital image processing" (1981) */
function cubicTaps(sources: Float32Array, from: number): Taps {
  const a = -0.75;
  const near = (x: number): number => fma32(f(fma32(a + 2, x, -(a + 3)) * x), x, 1);
  const far = (x: number): number => fma32(fma32(fma32(a, x, -5 * a), x, 8 * a), x, -4 * a);
  const index = new Int32Array(4 * sources.length);
  const weight = new Float32Array(4 * sources.length);
  for (const [i, source] of sources.entries()) {
    const low = Math.min(Math.floor(source), from - 1);
    const t = Math.min(Math.max(f(source - low), 0), 1);
    const rest = f(1 - t);
    for (const [j, offset] of [0, -1, 1, 2].entries()) {
      index[4 * i + j] = Math.min(Math.max(low + offset, 0), from - 1);
    }
    weight.set([near(t), far(f(t + 1)), near(rest), far(f(rest + 1))], 4 * i);
  }
  return { count: 4, index, weight };
}

/** Weighted sums along the axis of `from` entries that are `inner` apart. */
function alongAxis(data: Float32Array, from: number, inner: number, { count, index, weight }: Taps): Float32Array {
  const to = index.length / count;
  const outer = data.length / (from * inner);
  const out = new Float32Array(outer * to * inner);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < to; i++) {
      const at = (o * to + i) * inner;
      for (let j = 0; j < count; j++) {
        const source = (o * from + index[i * count + j]!) * inner;
        const w = weight[i * count + j]!;
        for (let k = 0; k < inner; k++) out[at + k] = fma32(data[source + k]!, w, out[at + k]!);
      }
    }
  }
  return out;
}

/** Means over the part of the input that each entry covers, whole entries only. @see torch `adaptive_avg_pool3d` */
function areaMeans(x: Tensor, size: readonly number[]): Float32Array {
  const [depth = 1, height = 1, width = 1] = leadingOnes(x.dims.slice(2));
  const [toDepth = 1, toHeight = 1, toWidth = 1] = leadingOnes(size);
  const planes = x.size / (depth * height * width);
  const out = new Float32Array(planes * toDepth * toHeight * toWidth);
  let at = 0;
  for (let plane = 0; plane < planes; plane++) {
    for (let d = 0; d < toDepth; d++) {
      const [d0, d1] = covered(d, depth, toDepth);
      for (let h = 0; h < toHeight; h++) {
        const [h0, h1] = covered(h, height, toHeight);
        for (let w = 0; w < toWidth; w++) {
          const [w0, w1] = covered(w, width, toWidth);
          let sum = 0;
          for (let z = d0; z < d1; z++) {
            for (let y = h0; y < h1; y++) {
              const row = ((plane * depth + z) * height + y) * width;
              for (let i = row + w0; i < row + w1; i++) sum = f(sum + x.data[i]!);
            }
          }
          out[at++] = f(f(sum / (d1 - d0)) / (h1 - h0)) / (w1 - w0);
        }
      }
    }
  }
  return out;
}

const leadingOnes = (dims: readonly number[]): number[] => [1, 1, 1, ...dims].slice(-3);

function covered(i: number, from: number, to: number): [start: number, end: number] {
  return [Math.floor((i * from) / to), 1 + Math.floor(((i + 1) * from - 1) / to)];
}
