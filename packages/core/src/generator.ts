import { boxMuller } from "./box_muller.ts";
import { ValueError } from "./errors.ts";
import { Tensor } from "./tensor.ts";
import { elementCount } from "./tensor_shapes.ts";

/** The seed that torch's default generator starts with. */
const DEFAULT_SEED = 67280421310721;

const N = 624;
const M = 397;
/** torch's layout of a generator's state: seed, left, seeded, next, N words of 64 bits, the normal cache. */
const STATE_BYTES = 5056;
const WORDS_AT = 24;
const CACHE_AT = WORDS_AT + 8 * N;

/**
 * Random numbers as torch's CPU generator draws them, bit for bit: the same seed gives the same picture as in Python.
 *
 * @see torch `torch.Generator`; M. Matsumoto, T. Nishimura, "Mersenne Twister" (1998)
 */
export class Generator {
  readonly device = "cpu";
  private initial = DEFAULT_SEED;
  private readonly words: Uint32Array = new Uint32Array(N);
  /** How many of the words have been given out; 0 directly after seeding, when they are not yet made. */
  private next = 0;
  /** The second value of the last Box-Muller pair of a small `randn`, kept for the next one. */
  private cached: number | undefined;

  /**
   * @param device "cpu", the only kind there is: its numbers do not depend on where models run
   * @throws ValueError for another device.
   */
  constructor(device: "cpu" = "cpu") {
    if (device !== "cpu") {
      throw new ValueError(
        `A Generator's device is "cpu", not ${JSON.stringify(device)}: its numbers fit every device.`,
        {
          field: "device",
          found: String(device),
          expected: "cpu",
        },
      );
    }
    this.manual_seed(DEFAULT_SEED);
  }

  /**
   * Starts the sequence of a seed. As in torch, only the seed modulo 2^32 matters.
   *
   * @param seed a whole number from -2^53 to 2^53; a negative one stands for 2^64 more
   * @throws TypeError for what is not a whole number.
   * @throws ValueError where numbers are no longer exact.
   */
  manual_seed(seed: number): this {
    if (typeof seed !== "number" || !Number.isInteger(seed)) {
      throw new TypeError(`manual_seed expects a whole number, got ${describe(seed)}.`);
    }
    if (!Number.isSafeInteger(seed)) {
      throw new ValueError(`The seed ${seed} is beyond 2^53, where numbers are not exact. Give a smaller one.`, {
        field: "seed",
        found: String(seed),
        expected: "a whole number of at most 53 bits",
      });
    }
    this.initial = seed;
    this.cached = undefined;
    this.next = 0;
    const { words } = this;
    words[0] = seed % 2 ** 32;
    for (let i = 1; i < N; i++) words[i] = Math.imul(words[i - 1]! ^ (words[i - 1]! >>> 30), 1812433253) + i;
    return this;
  }

  /** Re-seeds from real randomness, 53 bits of it as in torch, and returns the seed. */
  seed(): number {
    const random = crypto.getRandomValues(new Uint32Array(2));
    const seed = (random[0]! >>> 11) * 2 ** 32 + random[1]!;
    this.manual_seed(seed);
    return seed;
  }

  /** The seed that the sequence was started with. */
  initial_seed(): number {
    return this.initial;
  }

  /** Where the sequence stands, in the very bytes of torch's `Generator.get_state()`: `[5056]`. */
  get_state(): Tensor<"uint8"> {
    const bytes = new Uint8Array(STATE_BYTES);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt.asUintN(64, BigInt(this.initial)), true);
    view.setInt32(8, this.next === 0 ? 1 : N + 1 - this.next, true);
    view.setInt32(12, 1, true);
    view.setBigUint64(16, BigInt(this.next), true);
    for (let i = 0; i < N; i++) view.setUint32(WORDS_AT + 8 * i, this.words[i]!, true);
    view.setFloat64(CACHE_AT + 8, this.cached ?? 0, true);
    view.setInt32(CACHE_AT + 24, this.cached === undefined ? 0 : 1, true);
    return new Tensor("uint8", bytes, [STATE_BYTES]);
  }

  /**
   * Goes on from where `get_state` stood, here or in Python.
   *
   * @param state `[5056]` bytes
   * @throws TypeError for a tensor of another type, ValueError for bytes that are no generator's state.
   */
  set_state(state: Tensor<"uint8">): this {
    if (!(state instanceof Tensor) || state.type !== "uint8") {
      throw new TypeError(`set_state expects the uint8 tensor that get_state gave, got ${describe(state)}.`);
    }
    const bytes = state.data;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const next = bytes.length === STATE_BYTES ? Number(view.getBigUint64(16, true)) : -1;
    const left = next < 0 ? 0 : view.getInt32(8, true);
    if (next < 0 || next > N || left !== (next === 0 ? 1 : N + 1 - next) || view.getInt32(12, true) !== 1) {
      throw new ValueError("These bytes are no generator's state. Pass the tensor that get_state() gave.", {
        field: "state",
        found: `${bytes.length} bytes`,
        expected: `${STATE_BYTES} bytes of a generator's state`,
      });
    }
    const seed = BigInt.asIntN(64, view.getBigUint64(0, true));
    this.initial = Number(seed);
    this.next = next;
    for (let i = 0; i < N; i++) this.words[i] = view.getUint32(WORDS_AT + 8 * i, true);
    this.cached = view.getInt32(CACHE_AT + 24, true) === 1 ? view.getFloat64(CACHE_AT + 8, true) : undefined;
    return this;
  }

  /**
   * Uniform values in `[0, 1)`, float32.
   *
   * @see torch `torch.rand`
   */
  rand(dims: readonly number[]): Tensor {
    return new Tensor("float32", this.uniform(elementCount(dims)), dims);
  }

  /**
   * Normal values of mean 0 and deviation 1, float32.
   *
   * @see torch `torch.randn`
   */
  randn(dims: readonly number[]): Tensor {
    const size = elementCount(dims);
    if (size < 16) {
      const few = new Float32Array(size);
      for (let i = 0; i < size; i++) few[i] = this.normalDouble();
      return new Tensor("float32", few, dims);
    }
    const values = this.uniform(size);
    boxMuller(values, 0, size);
    if (size % 16 !== 0) {
      // The last sixteen are drawn anew where they do not make a group of their own.
      values.set(this.uniform(16), size - 16);
      boxMuller(values, size - 16, size);
    }
    return new Tensor("float32", values, dims);
  }

  /**
   * Whole numbers from `low` up to but not including `high`.
   *
   * @throws TypeError for bounds that are not whole, ValueError for an empty range.
   * @see torch `torch.randint`
   */
  randint(low: number, high: number, dims: readonly number[]): Tensor<"int64"> {
    for (const bound of [low, high]) {
      if (!Number.isSafeInteger(bound)) throw new TypeError(`randint expects whole numbers, got ${describe(bound)}.`);
    }
    if (low >= high) {
      throw new ValueError(`randint expects low < high, got low ${low} and high ${high}.`, {
        field: "low",
        found: `${low} >= ${high}`,
        expected: "low < high",
      });
    }
    const values = new BigInt64Array(elementCount(dims));
    const range = high - low;
    if (range < 2 ** 28) {
      for (let i = 0; i < values.length; i++) values[i] = BigInt((this.word() % range) + low);
    } else {
      const [start, count] = [BigInt(low), BigInt(high) - BigInt(low)];
      for (let i = 0; i < values.length; i++) {
        const top = BigInt(this.word());
        values[i] = (((top << 32n) | BigInt(this.word())) % count) + start;
      }
    }
    return new Tensor("int64", values, dims);
  }

  private uniform(size: number): Float32Array {
    const values = new Float32Array(size);
    const { words } = this;
    let at = 0;
    while (at < size) {
      this.refill();
      let next = this.next;
      const end = Math.min(at + N - next, size);
      for (; at < end; at++) values[at] = (temper(words[next++]!) & 0xffffff) * 2 ** -24;
      this.next = next;
    }
    return values;
  }

  /** A uniform double in `[0, 1)`, of the low 53 of 64 bits. */
  private uniformDouble(): number {
    const top = this.word() & 0x1fffff;
    return (top * 2 ** 32 + this.word()) * 2 ** -53;
  }

  private normalDouble(): number {
    if (this.cached !== undefined) {
      const value = this.cached;
      this.cached = undefined;
      return value;
    }
    const u1 = this.uniformDouble();
    const u2 = this.uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-u2));
    const angle = 2 * Math.PI * u1;
    this.cached = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** The next 32 bits. */
  private word(): number {
    this.refill();
    return temper(this.words[this.next++]!) >>> 0;
  }

  private refill(): void {
    if (this.next !== 0 && this.next !== N) return;
    twist(this.words);
    this.next = 0;
  }
}

/** Scrambles a word of the state, as an int32. */
function temper(word: number): number {
  let y = word ^ (word >>> 11);
  y ^= (y << 7) & 0x9d2c5680;
  y ^= (y << 15) & 0xefc60000;
  return y ^ (y >>> 18);
}

/** Makes the next N words of the Mersenne Twister. */
function twist(words: Uint32Array): void {
  const step = (k: number, next: number, far: number): void => {
    const y = (words[k]! & 0x80000000) | (words[next]! & 0x7fffffff);
    words[k] = words[far]! ^ (y >>> 1) ^ (-(y & 1) & 0x9908b0df);
  };
  for (let k = 0; k < N - M; k++) step(k, k + 1, k + M);
  for (let k = N - M; k < N - 1; k++) step(k, k + 1, k + M - N);
  step(N - 1, 0, M - 1);
}

function describe(value: unknown): string {
  return typeof value === "number" ? String(value) : value instanceof Tensor ? `a ${value.type} tensor` : typeof value;
}
