import { ValueError } from "./errors.ts";

const [INIT_A, MULT_A] = [0x43b0d7e5, 0x931e8875] as const;
const [INIT_B, MULT_B] = [0x8b51f9dd, 0x58f38ded] as const;
const [MIX_LEFT, MIX_RIGHT] = [0xca01f9dd, 0x4973f715] as const;

/** What {@link SeedSequence} takes besides the entropy. */
export interface SeedSequenceOptions {
  /** Tells the children of one entropy apart: whole numbers from 0. Default none. */
  readonly spawn_key?: readonly number[];
  /** How many words of 32 bits the entropy is mixed into, at least 4. Default 4. */
  readonly pool_size?: number;
}

/**
 * Hashes a number of any size into seeds that are independent of each other, as numpy does, bit for bit.
 *
 * @see numpy `numpy.random.SeedSequence`; M. E. O'Neill, "Developing a seed_seq Alternative" (2015)
 */
export class SeedSequence {
  private readonly pool: Uint32Array;

  /**
   * @param entropy a whole number from 0, a bigint where it is above 2^53
   * @throws ValueError for a number that is negative or not whole.
   */
  constructor(entropy: number | bigint, { spawn_key = [], pool_size = 4 }: SeedSequenceOptions = {}) {
    const words = wordsOf(entropy);
    // A spawn key goes behind as many words as the pool has, so that it is no other entropy's upper words.
    while (spawn_key.length > 0 && words.length < pool_size) words.push(0);
    words.push(...spawn_key.flatMap(wordsOf));

    let constant: number = INIT_A;
    const hash = (value: number): number => {
      const mixed = value ^ constant;
      constant = Math.imul(constant, MULT_A);
      return xorShift(Math.imul(mixed, constant));
    };
    const pool = Uint32Array.from({ length: pool_size }, (_, i) => hash(words[i] ?? 0));
    const mix = (to: number, value: number): void => {
      pool[to] = xorShift(Math.imul(MIX_LEFT, pool[to]!) - Math.imul(MIX_RIGHT, value));
    };
    for (let from = 0; from < pool_size; from++) {
      for (let to = 0; to < pool_size; to++) if (to !== from) mix(to, hash(pool[from]!));
    }
    for (const word of words.slice(pool_size)) {
      for (let to = 0; to < pool_size; to++) mix(to, hash(word));
    }
    this.pool = pool;
  }

  /** The first `count` words of 32 bits: seeds for generators. */
  generate_state(count: number): Uint32Array {
    let constant: number = INIT_B;
    return Uint32Array.from({ length: count }, (_, i) => {
      const mixed = this.pool[i % this.pool.length]! ^ constant;
      constant = Math.imul(constant, MULT_B);
      return xorShift(Math.imul(mixed, constant));
    });
  }
}

function xorShift(value: number): number {
  return value ^ (value >>> 16);
}

/** The 32-bit words of a whole number, the lowest first. */
function wordsOf(value: number | bigint): number[] {
  if (value < 0 || (typeof value !== "bigint" && !Number.isSafeInteger(value))) {
    throw new ValueError(`A seed must be a whole number from 0, exact (a bigint above 2^53), got ${value}.`, {
      field: "entropy",
      found: String(value),
      expected: "a whole number from 0",
    });
  }
  const words: number[] = [];
  let rest = BigInt(value);
  do {
    words.push(Number(rest & 0xffffffffn));
    rest >>= 32n;
  } while (rest > 0n);
  return words;
}
