/** Where values lie along an axis, from 0 to 1, and what is written beside it. */
export interface Scale {
  /** Not finite for what cannot be shown: zero on a logarithmic scale. */
  at(value: number): number;
  readonly ticks: readonly { readonly value: number; readonly text: string }[];
}

/** Least and largest of the finite values; 0 and 1 when there are none. */
export function extent(values: readonly number[]): [number, number] {
  const [min, max] = values
    .filter(Number.isFinite)
    .reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return min > max ? [0, 1] : [min, max];
}

/** A round distance that lies about `count` times between the ends. */
function roundStep(min: number, max: number, count: number): number {
  const rough = (max - min) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return ([1, 2, 5].find((factor) => factor * power >= rough * 0.999) ?? 10) * power;
}

/** @param toTicks whether the scale reaches to the round values beyond its ends */
export function linearScale([min, max]: readonly [number, number], count: number, toTicks = false): Scale {
  let [low, high] = max > min ? [min, max] : [min - 0.5, min + 0.5];
  const step = roundStep(low, high, count);
  if (toTicks) {
    low = Math.floor(low / step + 1e-9) * step;
    high = Math.ceil(high / step - 1e-9) * step;
  }
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  const values = Array.from({ length }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  return {
    at: (value) => (value - low) / (high - low),
    ticks: values.map((value) => ({ value, text: String(value) })),
  };
}

/** @param values what it is to show; those above zero count */
export function logScale(values: readonly number[]): Scale {
  const [min, max] = extent(values.filter((value) => value > 0));
  const [low, high] = [Math.log10(min > 0 ? min : 0.1), Math.log10(max)];
  const span = high > low ? high - low : 1;
  const decades = Array.from({ length: Math.floor(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i);
  // Between far-apart values the powers of ten are enough.
  const factors = span > 2.5 ? [1] : [1, 2, 5];
  const ticks = decades.flatMap((power) => factors.map((factor) => Number((factor * 10 ** power).toPrecision(1))));
  return {
    at: (value) => (value > 0 ? (Math.log10(value) - low) / span : Number.NaN),
    ticks: ticks
      .filter((value) => Math.log10(value) >= low - 1e-6 && Math.log10(value) <= low + span + 1e-6)
      .map((value) => ({ value, text: String(value) })),
  };
}

/** "14.61", "981", "0.02917": four digits of a fraction. */
export function shown(value: number | undefined): string {
  if (value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}
