/** Time and chance, replaced in tests so that they need not wait. */
export interface Timing {
  /** Milliseconds, from any start. */
  now(): number;
  /** At least 0, less than 1. */
  random(): number;
  /** Calls back once, after so many milliseconds; returns what calls it off. */
  after(ms: number, callback: () => void): () => void;
}

/** How patient a download is, and what it holds in memory. */
export interface TransferPolicy {
  /** Failures in a row, with no new byte between them, after which a download is given up. */
  readonly tries: number;
  /** The same for what is asked first: a server that was never heard of gets less patience. */
  readonly firstTries: number;
  /** Milliseconds before the second try; they double with each further one. */
  readonly delay: number;
  readonly maxDelay: number;
  /** Milliseconds without a byte, after which the connection counts as dead. */
  readonly stall: number;
  /** Bytes of a file that are kept as one; as much of each file can be in memory. */
  readonly partSize: number;
  /** Milliseconds after which what arrived is kept although the part is not full. */
  readonly flushAfter: number;
  /** Files at once. */
  readonly parallel: number;
  readonly timing: Timing;
}

const systemTiming: Timing = {
  now: () => performance.now(),
  random: () => Math.random(),
  after: (ms, callback) => {
    const handle = setTimeout(callback, ms);
    return () => clearTimeout(handle);
  },
};

export const defaultPolicy: TransferPolicy = {
  tries: 8,
  firstTries: 4,
  delay: 500,
  maxDelay: 30_000,
  stall: 30_000,
  partSize: 64 * 1024 * 1024,
  flushAfter: 5_000,
  parallel: 4,
  timing: systemTiming,
};

/** A failure that may pass. `final` is what is thrown when it did not. */
export class Transient extends Error {
  constructor(
    readonly final: Error,
    /** Milliseconds that the server asks to wait for. */
    readonly wait = 0,
  ) {
    super(final.message, { cause: final });
  }
}

/** One try: it ends with the caller's signal or when the server falls silent. */
export class Trial {
  /** Whether something new arrived: the server works, so failures are counted anew. */
  progressed = false;
  /** Whether the server fell silent. */
  stalled = false;
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #abort = (): void => this.#controller.abort(this.#outer?.reason);

  constructor(
    private readonly policy: TransferPolicy,
    signal: AbortSignal | undefined,
  ) {
    this.#outer = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Waits for the server, but not longer than it may be silent. */
  async wait<T>(promise: Promise<T>): Promise<T> {
    const { stall, timing } = this.policy;
    const cancel = timing.after(stall, () => {
      this.stalled = true;
      this.#controller.abort(new Error(`no byte for ${stall / 1000} s`));
    });
    try {
      return await abortable(promise, this.signal);
    } finally {
      cancel();
    }
  }

  /** Lets go of the caller's signal, and of a connection that is still open. */
  close(): void {
    this.#outer?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
  }
}

/**
 * Tries until it works, at most `tries` times without anything new, waiting longer each time.
 *
 * @throws what the last try's {@link Transient} carries, whatever else a try throws, or the signal's reason.
 */
export async function retry<T>(
  attempt: (trial: Trial) => Promise<T>,
  policy: TransferPolicy,
  tries: number,
  signal: AbortSignal | undefined,
): Promise<T> {
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    const trial = new Trial(policy, signal);
    try {
      return await attempt(trial);
    } catch (error) {
      trial.close();
      if (signal?.aborted) throw signal.reason;
      if (!(error instanceof Transient)) throw error;
      failures = trial.progressed ? 1 : failures + 1;
      if (failures >= tries) throw error.final;
      const { delay, maxDelay, timing } = policy;
      // Half of the wait is by chance: many clients that a server refused at once must not all come back at once.
      const backoff = Math.min(maxDelay, delay * 2 ** (failures - 1)) * (0.5 + timing.random() / 2);
      await sleep(Math.max(backoff, error.wait), timing, signal);
    } finally {
      trial.close();
    }
  }
}

/** Waits; rejects with the signal's reason when it is aborted meanwhile. */
function sleep(ms: number, timing: Timing, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      signal?.removeEventListener("abort", abort);
      resolve();
    };
    const cancel = timing.after(ms, done);
    const abort = (): void => {
      cancel();
      reject(signal!.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
  });
}

/** The promise, or before it the signal's reason: for work that goes on for others. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    if (signal.aborted) abort();
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** Whether a status says: not now. */
export function isTransientStatus(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500;
}

/**
 * Milliseconds that a server asks to wait for; at most the five minutes that the hub counts requests over.
 *
 * Pages cannot read the header from another origin: then 429 means some seconds, more than one's own backoff.
 */
export function serverWait(response: Response): number {
  const header = response.headers.get("retry-after");
  if (header === null) return response.status === 429 ? 5_000 : 0;
  const seconds = /^\d+$/.test(header.trim()) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(300, Math.max(0, seconds)) * 1000 : 0;
}
