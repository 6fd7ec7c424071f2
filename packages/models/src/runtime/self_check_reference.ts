/** The kernels of the self-check in plain double precision. Shapes are `[dims, values]`. */
type Operand = readonly [dims: readonly number[], values: ArrayLike<number>];

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/** The Gaussian error function, by its Maclaurin series: converges for the |x| < 5 that it is used for. */
function erf(x: number): number {
  if (Math.abs(x) > 5) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** Softmax attention over `[1, length, heads * size]`. */
export function attention([qDims, q]: Operand, [kDims, k]: Operand, [, v]: Operand, heads: number): Float64Array {
  const [, queries, width] = qDims as [number, number, number];
  const keys = kDims[1]!;
  const size = width / heads;
  const result = new Float64Array(queries * width);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < queries; i++) {
      const scores = new Float64Array(keys);
      for (let j = 0; j < keys; j++) {
        for (let c = head * size; c < (head + 1) * size; c++) scores[j]! += q[i * width + c]! * k[j * width + c]!;
      }
      const weights = scores.map((score) => Math.exp(score / Math.sqrt(size)));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (let j = 0; j < keys; j++) {
        for (let c = head * size; c < (head + 1) * size; c++) {
          result[i * width + c]! += (weights[j]! / total) * v[j * width + c]!;
        }
      }
    }
  }
  return result;
}

/** `[batch, height, width, channels]` plus `[batch, channels]`. */
export function addPerChannel([dims, x]: Operand, [, shift]: Operand): Float64Array {
  const [, height, width, channels] = dims as [number, number, number, number];
  return Float64Array.from(x, (value, i) => {
    const batch = Math.floor(i / (height * width * channels));
    return value + shift[batch * channels + (i % channels)]!;
  });
}

/** Group normalisation of `[batch, height, width, channels]`, then SiLU. */
export function groupNormSilu(
  x: ArrayLike<number>,
  dims: readonly number[],
  scale: ArrayLike<number>,
  offset: ArrayLike<number>,
  groups: number,
): Float64Array {
  const [batch, height, width, channels] = dims as [number, number, number, number];
  const size = channels / groups;
  const result = new Float64Array(x.length);
  for (let b = 0; b < batch; b++) {
    for (let group = 0; group < groups; group++) {
      const at: number[] = [];
      for (let pixel = 0; pixel < height * width; pixel++) {
        for (let c = group * size; c < (group + 1) * size; c++) at.push((b * height * width + pixel) * channels + c);
      }
      const { mean, deviation } = moments(at.map((i) => x[i]!));
      for (const i of at) {
        result[i] = silu(((x[i]! - mean) / deviation) * scale[i % channels]! + offset[i % channels]!);
      }
    }
  }
  return result;
}

function moments(values: readonly number[]): { mean: number; deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, deviation: Math.sqrt(variance + 1e-5) };
}

/** Rows of `bias.length`: the first half times the GELU of the second. */
export function biasSplitGelu(x: ArrayLike<number>, bias: ArrayLike<number>): Float64Array {
  const half = bias.length / 2;
  return Float64Array.from({ length: x.length / 2 }, (_, i) => {
    const row = Math.floor(i / half) * bias.length;
    const c = i % half;
    const gate = x[row + half + c]! + bias[half + c]!;
    return (x[row + c]! + bias[c]!) * 0.5 * gate * (1 + erf(gate / Math.SQRT2));
  });
}

export function add(x: ArrayLike<number>, y: ArrayLike<number>): Float64Array {
  return Float64Array.from(x, (value, i) => value + y[i]!);
}

/** Layer normalisation over rows of `scale.length`. */
export function layerNorm(x: Float64Array, scale: ArrayLike<number>, offset: ArrayLike<number>): Float64Array {
  const width = scale.length;
  return x.map((value, i) => {
    const row = Math.floor(i / width) * width;
    const { mean, deviation } = moments([...x.subarray(row, row + width)]);
    return ((value - mean) / deviation) * scale[i % width]! + offset[i % width]!;
  });
}

/** `x` times the transpose of `weight`, plus a bias. */
export function gemm([xDims, x]: Operand, [wDims, weight]: Operand, bias: ArrayLike<number>): Float64Array {
  const [rows, inner] = xDims as [number, number];
  const columns = wDims[0]!;
  return Float64Array.from({ length: rows * columns }, (_, i) => {
    const row = Math.floor(i / columns);
    const column = i % columns;
    let sum = bias[column]!;
    for (let k = 0; k < inner; k++) sum += x[row * inner + k]! * weight[column * inner + k]!;
    return sum;
  });
}

/** `[1, height, width, channels]` as `[1, channels, height, width]`. */
export function channelsFirst([dims, x]: Operand): Float32Array {
  const [, height, width, channels] = dims as [number, number, number, number];
  const pixels = height * width;
  return Float32Array.from({ length: x.length }, (_, i) => x[(i % pixels) * channels + Math.floor(i / pixels)]!);
}

/** A convolution with stride 2, padded right and below by one, of `[1, height, width, channels]`. */
export function conv2d(
  [dims, x]: Operand,
  [kernelDims, kernel]: Operand,
  bias: ArrayLike<number>,
): { channelsLast: Float64Array; channelsFirst: Float64Array } {
  const [, height, width, channels] = dims as [number, number, number, number];
  const [out, , size] = kernelDims as [number, number, number];
  const outHeight = Math.floor((height + 1 - size) / 2) + 1;
  const outWidth = Math.floor((width + 1 - size) / 2) + 1;
  const channelsLast = new Float64Array(out * outHeight * outWidth);
  const channelsFirst = new Float64Array(channelsLast.length);
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < outHeight; i++) {
      for (let j = 0; j < outWidth; j++) {
        let sum = bias[o]!;
        for (let di = 0; di < size; di++) {
          for (let dj = 0; dj < size; dj++) {
            const row = 2 * i + di;
            const column = 2 * j + dj;
            if (row >= height || column >= width) continue;
            for (let c = 0; c < channels; c++) {
              sum += x[(row * width + column) * channels + c]! * kernel[((o * channels + c) * size + di) * size + dj]!;
            }
          }
        }
        channelsLast[(i * outWidth + j) * out + o] = sum;
        channelsFirst[(o * outHeight + i) * outWidth + j] = sum;
      }
    }
  }
  return { channelsLast, channelsFirst };
}
