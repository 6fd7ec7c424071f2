/** Facts an error carries besides its message, all of them plain data, so that they survive a worker's `postMessage`. */
export interface ErrorDetails {
  /** What was found, as a short text. */
  readonly found?: string;
  /** What was expected instead. */
  readonly expected?: string;
  /** The file the error is about, relative to its source. */
  readonly file?: string;
  /** The weight tensors the error is about. */
  readonly tensors?: readonly string[];
  /** The class the error is about, e.g. `UNet2DConditionModel`. */
  readonly className?: string;
  /** The config field or option the error is about. */
  readonly field?: string;
  /** What a {@link QuotaError} is short of. */
  readonly storage?: StorageDetails;
}

/** Why the browser's storage has no room, and what could make some. All in bytes. */
export interface StorageDetails {
  /** What the rest of the file takes. */
  readonly needed: number;
  /** What the origin has in use, as the browser estimates it; undefined where it does not say. */
  readonly used: number | undefined;
  /** What the origin may use; undefined where the browser does not say, or says more than it gives (Chromium). */
  readonly quota: number | undefined;
  /** How much has to be freed, at least. */
  readonly missing: number;
  /** The least recently used models whose deletion would make room; all other models where even that is not enough. */
  readonly evictable: readonly {
    readonly endpoint: string;
    readonly repo: string;
    readonly commit: string;
    readonly bytes: number;
  }[];
}

/** Base of the errors this library throws by class: a literal `code`, and details as readonly fields. */
export abstract class DiffusersWebError extends Error {
  /** The class's name, written out: minifiers rename classes. */
  abstract override readonly name: string;
  /** What the error is rebuilt by on the other side of a worker. */
  abstract readonly code: string;
  readonly details: ErrorDetails;

  constructor(message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.details = details;
  }
}

/** A repository, folder or file that a load needs is not there, or may not be read. */
export class ModelNotFoundError extends DiffusersWebError {
  override readonly name = "ModelNotFoundError";
  override readonly code = "MODEL_NOT_FOUND";
}

/** A class, config field or file format that this library does not build: it is named, never ignored. */
export class UnsupportedModelError extends DiffusersWebError {
  override readonly name = "UnsupportedModelError";
  override readonly code = "UNSUPPORTED_MODEL";
}

/** Weights that do not fit the model that `config.json` describes: `details.tensors` names them. */
export class WeightsMismatchError extends DiffusersWebError {
  override readonly name = "WeightsMismatchError";
  override readonly code = "WEIGHTS_MISMATCH";
}

/** A file whose bytes are not what they should be: truncated, a header that lies, a wrong checksum. */
export class IntegrityError extends DiffusersWebError {
  override readonly name = "IntegrityError";
  override readonly code = "INTEGRITY";
}

/** The browser's storage has no room for what should be kept. */
export class QuotaError extends DiffusersWebError {
  override readonly name = "QuotaError";
  override readonly code = "QUOTA";
}

/** The device lacks what the model needs, was lost, or computes wrong. */
export class DeviceError extends DiffusersWebError {
  override readonly name = "DeviceError";
  override readonly code = "DEVICE";
}

/** The worker that a pipeline lives in could not be started, or has ended. */
export class WorkerError extends DiffusersWebError {
  override readonly name = "WorkerError";
  override readonly code = "WORKER";
}

/** An argument or a config value outside of what is allowed: where Python raises ValueError. */
export class ValueError extends DiffusersWebError {
  override readonly name = "ValueError";
  override readonly code = "VALUE";
}

const classes = {
  MODEL_NOT_FOUND: ModelNotFoundError,
  UNSUPPORTED_MODEL: UnsupportedModelError,
  WEIGHTS_MISMATCH: WeightsMismatchError,
  INTEGRITY: IntegrityError,
  QUOTA: QuotaError,
  DEVICE: DeviceError,
  WORKER: WorkerError,
  VALUE: ValueError,
} as const;

/** An error as plain data, for `postMessage`. */
export interface SerializedError {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly details?: ErrorDetails;
  readonly stack?: string;
}

/** Makes plain data of any thrown value. {@link deserializeError} is its inverse. */
export function serializeError(error: unknown): SerializedError {
  if (error instanceof DiffusersWebError) {
    return { name: error.name, message: error.message, code: error.code, details: error.details, stack: error.stack };
  }
  if (error instanceof Error || error instanceof DOMException) {
    return { name: error.name, message: error.message, stack: error.stack };
  }
  return { name: "Error", message: String(error) };
}

/** Rebuilds an error by its `code` (ours), or by its `name` (TypeError, RangeError, a DOMException such as AbortError). */
export function deserializeError(data: SerializedError): Error {
  let error: Error;
  if (data.code !== undefined && Object.hasOwn(classes, data.code)) {
    error = new classes[data.code as keyof typeof classes](data.message, data.details);
  } else if (data.name === "AbortError" || data.name === "TimeoutError" || data.name === "QuotaExceededError") {
    return new DOMException(data.message, data.name);
  } else if (data.name === "TypeError") {
    error = new TypeError(data.message);
  } else if (data.name === "RangeError") {
    error = new RangeError(data.message);
  } else {
    error = new Error(data.message);
    error.name = data.name;
  }
  if (data.stack !== undefined) error.stack = data.stack;
  return error;
}

/**
 * The candidate nearest to `word`, for "did you mean" messages: by edit distance, else one that begins with it.
 *
 * @returns undefined when none is near
 */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  const lower = word.toLowerCase();
  let best =
    lower.length < 3 ? undefined : [...candidates].find((candidate) => candidate.toLowerCase().startsWith(lower));
  let bestDistance = Math.max(2, Math.floor(word.length / 2)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(lower, candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, previous[j]! + 1, current[j - 1]! + 1));
    }
    previous = current;
  }
  return previous[b.length]!;
}

/**
 * Refuses options that a function does not take: a misspelt one would otherwise be ignored.
 *
 * @throws TypeError naming the unknown option and the nearest known one.
 */
export function checkOptions(where: string, options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const guess = nearest(key, known);
    const hint = guess === undefined ? `Known options: ${known.join(", ")}.` : `Did you mean \`${guess}\`?`;
    throw new TypeError(`${where} got an unknown option \`${key}\`. ${hint}`);
  }
}
