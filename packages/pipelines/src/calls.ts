/** What every call takes besides the arguments of Python's `__call__`. */
export interface RunOptions {
  /** Cancels between two steps: the call rejects with the signal's reason, and the pipeline can be used again. */
  readonly signal?: AbortSignal | undefined;
}

/** `pipeline(prompt, options)` or `pipeline(options)`. */
export function callOptions(args: unknown[]): RunOptions {
  const [first, second, ...rest] = args;
  if (rest.length > 0) throw new TypeError("A pipeline takes (prompt, options) or (options).");
  const isOptions = typeof first === "object" && first !== null && !Array.isArray(first);
  if (isOptions) {
    if (second !== undefined) throw new TypeError("A pipeline takes (prompt, options) or (options).");
    return first as RunOptions;
  }
  const options = (second ?? {}) as RunOptions & { prompt?: unknown };
  if (first == null) return options;
  if (options.prompt != null) throw new TypeError("`prompt` was given twice: as the first argument and as an option.");
  return { ...options, prompt: first } as RunOptions;
}

/** Waits for `promise`, but no longer than until the signal aborts. */
export async function untilAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  if (signal === undefined) return promise;
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
  });
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/**
 * Lets events in between two steps: on WASM, steps follow each other without a pause, in which an abort or a repaint
 * would have to wait.
 */
export async function nextTask(signal: AbortSignal | undefined): Promise<void> {
  if (typeof setImmediate === "function") await new Promise<void>((resolve) => setImmediate(resolve));
  else {
    // Timers are slowed down to 4 ms in pages, and to a second in those out of sight; messages are not.
    const { port1, port2 } = new MessageChannel();
    await new Promise<void>((resolve) => {
      port1.onmessage = () => resolve();
      port2.postMessage(null);
    });
    port1.close();
  }
  signal?.throwIfAborted();
}
