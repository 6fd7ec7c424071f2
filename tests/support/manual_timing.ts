/** Time that tests make pass, so that no test of a download sleeps. */
import { defaultPolicy, type Timing, type TransferPolicy } from "../../packages/core/src/hub/retry.ts";

/** Timers of these lengths run out when the test says so. All others are waits before a try, and run out at once. */
const stall = 1_000_001;
const flushAfter = 1_000_002;

export class ManualTiming implements Timing {
  /** The waits before further tries, in milliseconds. */
  readonly waits: number[] = [];
  /** Set to let waits last for ever. Called when one begins. */
  onWait: (() => void) | undefined;
  readonly #timers = new Map<() => void, number>();

  readonly policy: TransferPolicy = {
    ...defaultPolicy,
    tries: 5,
    firstTries: 3,
    delay: 1000,
    maxDelay: 6000,
    stall,
    flushAfter,
    partSize: 10_000,
    timing: this,
  };

  now(): number {
    return 0;
  }

  random(): number {
    return 0.5;
  }

  after(ms: number, callback: () => void): () => void {
    if (ms === stall || ms === flushAfter) {
      this.#timers.set(callback, ms);
      return () => void this.#timers.delete(callback);
    }
    this.waits.push(ms);
    if (this.onWait !== undefined) {
      this.onWait();
      return () => undefined;
    }
    const handle = setImmediate(callback);
    return () => clearImmediate(handle);
  }

  /** The server was silent for too long. */
  runOutOfPatience(): Promise<void> {
    return this.#fire(stall);
  }

  /** What arrived is to be kept now. */
  keepNow(): Promise<void> {
    return this.#fire(flushAfter);
  }

  /** Timers that nobody has called off. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets the timers of a length run out, once there is one and all that can go on has. */
  async #fire(length: number): Promise<void> {
    do await new Promise((resolve) => setImmediate(resolve));
    while (![...this.#timers.values()].includes(length));
    for (const [callback, ms] of [...this.#timers]) {
      if (ms !== length) continue;
      this.#timers.delete(callback);
      callback();
    }
  }
}
