import type { RunProgress } from "./run_progress.ts";

/** What every call takes besides the arguments of Python's `__call__`. */
export interface RunOptions {
  /** Cancels between two steps: the call rejects with the signal's reason, and the pipeline can be used again. */
  readonly signal?: AbortSignal | undefined;
  /** Told how far the call is, and how long it will still take: as it begins, after each step, and as it ends. */
  readonly progress_callback?: ((progress: RunProgress) => unknown) | undefined;
}

/** The option that a call may be given first, without its name. */
export type FirstArgument = "prompt" | "image";

/** `pipeline(prompt, options)` or `pipeline(options)`; or with a picture in place of the prompt. */
export function callOptions(args: unknown[], name: FirstArgument = "prompt"): RunOptions {
  const [first, second, ...rest] = args;
  const wrong = new TypeError(`A pipeline takes (${name}, options) or (options).`);
  if (rest.length > 0) throw wrong;
  if (isOptions(first, name)) {
    if (second !== undefined) throw wrong;
    return first as RunOptions;
  }
  const options = (second ?? {}) as RunOptions & { readonly [key in FirstArgument]?: unknown };
  if (first == null) return options;
  if (options[name] != null)
    throw new TypeError(`\`${name}\` was given twice: as the first argument and as an option.`);
  return { ...options, [name]: first } as RunOptions;
}

/** A picture is an object as well, but of a class. */
function isOptions(first: unknown, name: FirstArgument): boolean {
  if (typeof first !== "object" || first === null || Array.isArray(first)) return false;
  return name === "prompt" || [Object.prototype, null].includes(Object.getPrototypeOf(first));
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
