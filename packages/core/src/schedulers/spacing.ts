/** Rounds to the nearest whole number, halves to the even one, as Python and numpy do. */
export function roundHalfEven(x: number): number {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * `numpy.linspace(start, stop, count)`: `count` evenly spaced numbers, both ends included, to the bit.
 *
 * @see numpy `linspace`
 */
export function linspace(start: number, stop: number, count: number): Float64Array {
  const delta = stop - start;
  const step = delta / (count - 1);
  const values = new Float64Array(count);
  // A step that underflows to zero is avoided by dividing first.
  for (let i = 0; i < count; i++) values[i] = (step === 0 ? (i / (count - 1)) * delta : i * step) + start;
  if (count === 1) values[0] = start;
  if (count > 1) values[count - 1] = stop;
  return values;
}

/**
 * `numpy.arange(start, stop, step)` of floats, to the bit: rounding may put one more number at its end than expected.
 *
 * @see numpy `arange`
 */
export function arange(start: number, stop: number, step: number): Float64Array {
  const values = new Float64Array(Math.max(0, Math.ceil((stop - start) / step)));
  const delta = start + step - start;
  for (let i = 0; i < values.length; i++) values[i] = start + i * delta;
  if (values.length > 1) values[1] = start + step;
  return values;
}

/** "linspace": `count` timesteps from `last` down to 0, not yet rounded. */
export function linspaceTimesteps(last: number, count: number): Float64Array {
  return linspace(0, last, count).reverse();
}

/** "leading": multiples of `ratio` from `(count - 1) * ratio` down to 0, plus `offset`. */
export function leadingTimesteps(ratio: number, count: number, offset: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => (count - 1 - i) * ratio + offset);
}

/** "trailing": from `from - 1` down in steps of `ratio`, each rounded. */
export function trailingTimesteps(from: number, ratio: number): Float64Array {
  return arange(from, 0, -ratio).map((t) => roundHalfEven(t) - 1);
}
