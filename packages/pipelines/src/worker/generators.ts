import { type Generator, Tensor } from "@diffusers-web/core";

/** A generator's counterpart in the worker. */
interface Counterpart {
  readonly id: number;
  readonly generator: Generator;
  /** Where both stood when they last agreed. */
  state: Uint8Array;
  /** Calls under way that draw from it. */
  calls: number;
}

/**
 * The page's generators that calls under way draw from. While there is such a call, the worker's counterpart is ahead; a
 * generator that is seeded anew meanwhile gets a new one, so that the calls before it go on as they began.
 */
export class Generators {
  private readonly current = new WeakMap<Generator, Counterpart>();
  private readonly all = new Map<number, Counterpart>();
  private lastId = 0;

  /** @param used those that the call uses already */
  pack(generator: Generator, used: Set<number>): { readonly id: number; readonly state?: Uint8Array } {
    const state = generator.get_state().data;
    const known = this.current.get(generator);
    if (known !== undefined && known.calls > 0 && isSame(known.state, state)) {
      if (!used.has(known.id)) known.calls += 1;
      used.add(known.id);
      return { id: known.id };
    }
    this.lastId += 1;
    const added: Counterpart = { id: this.lastId, generator, state, calls: 1 };
    this.current.set(generator, added);
    this.all.set(added.id, added);
    used.add(added.id);
    return { id: added.id, state };
  }

  /** Moves generators on to where the worker's stand, but for those that the page has moved itself meanwhile. */
  advance(states: Iterable<readonly [id: number, state: Uint8Array]>): void {
    for (const [id, state] of states) {
      const one = this.all.get(id);
      if (one === undefined || this.current.get(one.generator) !== one) continue;
      if (!isSame(one.generator.get_state().data, one.state)) continue;
      one.generator.set_state(new Tensor("uint8", state, [state.length]));
      one.state = state;
    }
  }

  /** Those that have been drawn from since they were last moved on. */
  drawn(used: Iterable<number>): (readonly [id: number, state: Uint8Array])[] {
    return [...used].flatMap((id) => {
      const one = this.all.get(id)!;
      const state = one.generator.get_state().data;
      if (this.current.get(one.generator) !== one || isSame(state, one.state)) return [];
      one.state = state;
      return [[id, state] as const];
    });
  }

  /** @returns those that no call uses any more */
  release(used: Iterable<number>): number[] {
    return [...used].filter((id) => {
      const one = this.all.get(id)!;
      one.calls -= 1;
      if (one.calls === 0) this.all.delete(id);
      return one.calls === 0;
    });
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
