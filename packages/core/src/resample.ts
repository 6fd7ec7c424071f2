/** Pillow's resampling filters. */
export type Resample = "nearest" | "box" | "bilinear" | "hamming" | "bicubic" | "lanczos";

interface Filter {
  /** Half the filter's width, in pixels of the larger picture. */
  readonly support: number;
  weight(x: number): number;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

const filters: Record<Exclude<Resample, "nearest">, Filter> = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0) },
  hamming: {
    support: 1,
    weight(x) {
      const t = Math.abs(x);
      if (t === 0) return 1;
      // The two constants are float32 in Pillow.
      return t >= 1 ? 0 : sinc(t) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(t * Math.PI));
    },
  },
  bicubic: {
    support: 2,
    weight(x) {
      const a = -0.5;
      const t = Math.abs(x);
      if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
      return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** The names of the filters. */
export function resampleNames(): string[] {
  return ["nearest", ...Object.keys(filters)];
}

/** Weights are whole multiples of 2^-22: 32 bits, less 8 for the pixel, less 2 for what a filter may overshoot. */
const PRECISION_BITS = 22;

/** For each pixel of the result: where its window begins, how long it is, and its weights. */
interface Windows {
  readonly begins: Int32Array;
  readonly lengths: Int32Array;
  readonly weights: Int32Array;
  /** Weights kept for each window. */
  readonly stride: number;
}

function windowsOf(filter: Filter, from: number, to: number): Windows {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const begins = new Int32Array(to);
  const lengths = new Int32Array(to);
  const weights = new Int32Array(to * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(center - support + 0.5));
    const length = Math.min(from, Math.trunc(center + support + 0.5)) - begin;
    let total = 0;
    for (let j = 0; j < length; j++) {
      exact[j] = filter.weight((j + begin - center + 0.5) * (1 / filterScale));
      total += exact[j]!;
    }
    begins[i] = begin;
    lengths[i] = length;
    for (let j = 0; j < length; j++) {
      const weight = total === 0 ? exact[j]! : exact[j]! / total;
      weights[i * stride + j] = Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * 2 ** PRECISION_BITS);
    }
  }
  return { begins, lengths, weights, stride };
}

/**
 * One pass along one dimension: the picture is `outer` groups of `from` steps of `inner` bytes; the steps become `to`.
 */
function pass(
  source: Uint8ClampedArray,
  outer: number,
  from: number,
  to: number,
  inner: number,
  filter: Filter,
): Uint8ClampedArray {
  const { begins, lengths, weights, stride } = windowsOf(filter, from, to);
  const result = new Uint8ClampedArray(outer * to * inner);
  let out = 0;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < to; i++) {
      const start = (o * from + begins[i]!) * inner;
      const length = lengths[i]!;
      const weightsAt = i * stride;
      for (let k = 0; k < inner; k++) {
        let sum = 1 << (PRECISION_BITS - 1);
        for (let j = 0, at = start + k; j < length; j++, at += inner) sum += source[at]! * weights[weightsAt + j]!;
        result[out++] = sum >> PRECISION_BITS;
      }
    }
  }
  return result;
}

function nearest(
  source: Uint8ClampedArray,
  width: number,
  height: number,
  channels: number,
  toWidth: number,
  toHeight: number,
): Uint8ClampedArray {
  // Positions are added up step by step, as Pillow does: their rounding decides ties.
  const positions = (from: number, to: number): Int32Array => {
    const step = from / to;
    const result = new Int32Array(to);
    let at = step * 0.5;
    for (let i = 0; i < to; i++, at += step) result[i] = at;
    return result;
  };
  const columns = positions(width, toWidth);
  const rows = positions(height, toHeight);
  const result = new Uint8ClampedArray(toWidth * toHeight * channels);
  let out = 0;
  for (let y = 0; y < toHeight; y++) {
    for (let x = 0; x < toWidth; x++) {
      const at = (rows[y]! * width + columns[x]!) * channels;
      for (let c = 0; c < channels; c++) result[out++] = source[at + c]!;
    }
  }
  return result;
}

/** Colours times alpha, as Pillow goes from RGBA to RGBa. */
function premultiply(source: Uint8ClampedArray): Uint8ClampedArray {
  const result = source.slice();
  for (let i = 0; i < result.length; i++) {
    if (i % 4 === 3) continue;
    const product = source[i]! * source[i | 3]! + 128;
    result[i] = ((product >> 8) + product) >> 8;
  }
  return result;
}

/** Colours divided by alpha, in place; where alpha is 0 they stay as they are. */
function unpremultiply(data: Uint8ClampedArray): Uint8ClampedArray {
  for (let i = 0; i < data.length; i++) {
    const alpha = data[i | 3]!;
    if (i % 4 !== 3 && alpha !== 0 && alpha !== 255) data[i] = Math.trunc((255 * data[i]!) / alpha);
  }
  return data;
}

/**
 * Resizes 8-bit pixels, `[height, width, channels]`, with the very fixed-point arithmetic of Pillow 13, one pass
 * along the rows and one along the columns; four channels are RGBA, filtered with their colours premultiplied.
 *
 * @see Pillow `Resample.c`, `Image.resize`
 */
export function resizePixels(
  source: Uint8ClampedArray,
  width: number,
  height: number,
  channels: number,
  toWidth: number,
  toHeight: number,
  resample: Resample,
): Uint8ClampedArray {
  if (width === toWidth && height === toHeight) return source.slice();
  if (resample === "nearest") return nearest(source, width, height, channels, toWidth, toHeight);
  const filter = filters[resample];
  let data = channels === 4 ? premultiply(source) : source;
  // The order shows in the last bits. Pillow 13 begins with the columns where they lose over twice as many pixels.
  const columnsFirst = toHeight < height && height - toHeight > 2 * (width - toWidth);
  if (columnsFirst) data = pass(data, 1, height, toHeight, width * channels, filter);
  if (width !== toWidth) data = pass(data, columnsFirst ? toHeight : height, width, toWidth, channels, filter);
  if (height !== toHeight && !columnsFirst) data = pass(data, 1, height, toHeight, toWidth * channels, filter);
  return channels === 4 ? unpremultiply(data) : data;
}
