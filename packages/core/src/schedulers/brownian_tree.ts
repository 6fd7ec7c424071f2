import { ValueError } from "../errors.ts";
import { Generator } from "../generator.ts";
import { SeedSequence } from "../seed_sequence.ts";
import { elementCount } from "../tensor_shapes.ts";
import { roundHalfEven } from "./spacing.ts";

/** What seeds a Brownian path: numbers from 0, bigints above 2^53. */
export type BrownianSeed = number | bigint;

/** Words of 32 bits that a node's seed is mixed from. */
const POOL_SIZE = 24;

/** A node of the tree: an interval of time, and the increment of the path over it. */
interface Interval {
  readonly start: number;
  readonly end: number;
  /** The node's place among the 2^depth of its depth. */
  readonly place: number;
  readonly depth: number;
  readonly W: Float32Array;
  halves?: readonly [Interval, Interval];
}

const f = Math.fround;

/**
 * A Brownian path that its seed determines, whatever is asked of it in whatever order: a dyadic tree of intervals, each
 * split at its midpoint by a Brownian bridge whose noise is seeded by the node's place in the tree.
 *
 * Times are rounded to 6 decimals, as is each midpoint: that is the tree's resolution. Increments are those of Python bit
 * for bit, times being equal. After a query only the paths to its two ends are kept, up to 90 increments of the
 * sample's size; all others are made again when they are asked for.
 *
 * @see torchsde `BrownianInterval` with `halfway_tree=True, tol=1e-6, pool_size=24`, which is its `BrownianTree`
 */
export class BrownianInterval {
  private readonly top: Interval;
  private readonly generator: Generator = new Generator();

  /**
   * @param t0 where the path begins, at most `t1`
   * @param dims the shape of an increment
   * @throws ValueError for an entropy that is negative or not whole.
   */
  constructor(
    t0: number,
    t1: number,
    private readonly dims: readonly number[],
    private readonly entropy: BrownianSeed,
  ) {
    const W = this.randn([]);
    const scale = f(Math.sqrt(t1 - t0));
    for (let i = 0; i < W.length; i++) W[i] = W[i]! * scale;
    this.top = { start: roundTime(t0), end: roundTime(t1), place: 0, depth: 0, W };
  }

  /**
   * The increment of the path from `ta` to `tb`. Times beyond the path's ends stand for its ends. Between times that round
   * to one it is 0, where torchsde may search without end.
   *
   * @param ta at most `tb`
   * @throws ValueError for times that are too large to be told apart.
   */
  increment(ta: number, tb: number): Float32Array {
    const { start, end } = this.top;
    const [from, to] = [ta, tb].map((t) => roundTime(Math.min(Math.max(t, start), end))) as [number, number];
    const pieces: Float32Array[] = [];
    if (from < to) this.collect(this.top, from, to, pieces);
    const sum = new Float32Array(elementCount(this.dims));
    for (const piece of pieces) for (let i = 0; i < sum.length; i++) sum[i]! += piece[i]!;
    return sum;
  }

  /** Gathers the increments of the largest nodes that together make up `[ta, tb]`, which lies in `node`. */
  private collect(node: Interval, ta: number, tb: number, pieces: Float32Array[]): void {
    if (ta === node.start && tb === node.end) {
      pieces.push(node.W);
      delete node.halves;
      return;
    }
    node.halves ??= this.split(node);
    for (const half of node.halves) {
      const [from, to] = [Math.max(ta, half.start), Math.min(tb, half.end)];
      if (from < to) this.collect(half, from, to, pieces);
      else delete half.halves;
    }
  }

  /** The Brownian bridge: given the increment over an interval, those over its two halves. */
  private split({ start, end, place, depth, W }: Interval): [Interval, Interval] {
    const midway = roundTime(0.5 * (end + start));
    if (!(midway > start && midway < end)) {
      throw new ValueError(`The noise levels ${start} and ${end} leave no room for a Brownian path between them.`, {
        field: "sigmas",
        found: `${start} to ${end}`,
        expected: "finite noise levels, at least 1e-6 apart",
      });
    }
    const h_reciprocal = 1 / (end - start);
    const left_diff = midway - start;
    const std = f(Math.sqrt(left_diff * (end - midway) * h_reciprocal));
    const noise = this.randn([place, depth]);
    const left = new Float32Array(W.length);
    const right = new Float32Array(W.length);
    const [difference, reciprocal] = [f(left_diff), f(h_reciprocal)];
    for (let i = 0; i < W.length; i++) {
      const w = W[i]!;
      left[i] = f(f(difference * w) * reciprocal) + f(std * noise[i]!);
      right[i] = w - left[i]!;
    }
    return [
      { start, end: midway, place: 2 * place, depth: depth + 1, W: left },
      { start: midway, end, place: 2 * place + 1, depth: depth + 1, W: right },
    ];
  }

  /** The normal noise of a node, or of the whole path where there is no key. */
  private randn(spawn_key: readonly number[]): Float32Array {
    const [seed] = new SeedSequence(this.entropy, { spawn_key, pool_size: POOL_SIZE }).generate_state(1);
    return this.generator.manual_seed(seed!).randn(this.dims).data;
  }
}

/** Python's `round(t, 6)`: to the nearest by t's exact value, halves to the even one. */
function roundTime(t: number): number {
  // Only multiples of 1/128 can lie exactly in the middle.
  return Number.isInteger(t * 128) ? roundHalfEven(t * 1e6) / 1e6 : Number(t.toFixed(6));
}

/**
 * The noise of a stochastic solver as a function of the noise level: increments of a Brownian path in sigma, scaled to
 * deviation 1. Steps of another size walk the same path, so that a run of more steps refines the same picture.
 *
 * @see Diffusers `BrownianTreeNoiseSampler`, `BatchedBrownianTree`
 */
export class BrownianTreeNoiseSampler {
  private readonly trees: readonly BrownianInterval[];
  private readonly sign: number;

  /**
   * @param dims the sample's shape, `[batch, ...]`
   * @param sigma_min the low end of the path, a float32 number
   * @param sigma_max the high end of the path, a float32 number
   * @param seed one for the whole sample, or one per batch item; undefined: a random one
   * @throws ValueError for a list of seeds of another length than the batch, or a seed that is negative or not whole.
   */
  constructor(
    readonly dims: readonly number[],
    sigma_min: number,
    sigma_max: number,
    seed: BrownianSeed | readonly BrownianSeed[] = new Generator().seed(),
  ) {
    const [low, high, sign] = sort(sigma_min, sigma_max);
    this.sign = sign;
    if (!isList(seed)) {
      this.trees = [new BrownianInterval(low, high, dims, seed)];
      return;
    }
    if (seed.length !== dims[0]) {
      throw new ValueError(`There are ${seed.length} seeds for a batch of ${dims[0]}. Give one, or one per item.`, {
        field: "seed",
        found: `${seed.length} seeds`,
        expected: `${dims[0]} seeds`,
      });
    }
    this.trees = seed.map((one) => new BrownianInterval(low, high, dims.slice(1), one));
  }

  /**
   * The noise of a step from one noise level to another, of the sample's size. NaN where they are equal.
   *
   * @param sigma a float32 number
   * @param sigma_next a float32 number
   */
  noise(sigma: number, sigma_next: number): Float32Array {
    const [low, high, sign] = sort(sigma, sigma_next);
    const noise = new Float32Array(elementCount(this.dims));
    const scale = this.sign * sign * f(Math.sqrt(f(high - low)));
    for (const [k, tree] of this.trees.entries()) {
      const W = tree.increment(low, high);
      for (let i = 0; i < W.length; i++) noise[k * W.length + i] = W[i]! / scale;
    }
    return noise;
  }
}

function isList(seed: BrownianSeed | readonly BrownianSeed[]): seed is readonly BrownianSeed[] {
  return typeof seed === "object";
}

/** Two times in ascending order, and -1 where they were not. */
function sort(a: number, b: number): [number, number, 1 | -1] {
  return a < b ? [a, b, 1] : [b, a, -1];
}
