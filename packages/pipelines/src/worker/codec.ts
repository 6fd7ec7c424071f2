import {
  type ConfigMixin,
  deserializeError,
  floatsOf,
  markFloats,
  RawImage,
  type Scheduler,
  schedulerRegistry,
  serializeError,
  Tensor,
  type TensorData,
} from "@diffusers-web/core";
import { type Payload, type SchedulerState, TAG, type Tagged, type Wire } from "./protocol.ts";

/** How values are packed. */
export interface Packing {
  /** Whether arrays are given away, or copied first because the sender keeps them. */
  readonly isMoved: boolean;
  /** The buffers to be transferred. */
  readonly transfer: Set<ArrayBuffer>;
  /** What only this end knows how to pack; undefined for anything else. */
  encode?(value: object, where: string): Wire | undefined;
}

export function tagged(payload: Payload): Tagged {
  return { [TAG]: payload.kind, payload };
}

export function isTagged(value: unknown): value is Tagged {
  return typeof value === "object" && value !== null && Object.hasOwn(value, TAG);
}

/** Whether an object is a literal: `{}`, not an instance of a class. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Whether a value is a scheduler of this library, which the other end can build as well. */
export function isScheduler(value: object): value is Scheduler {
  const { name } = value.constructor ?? {};
  return Object.hasOwn(schedulerRegistry, name) && Object.getPrototypeOf(value) === schedulerRegistry[name]!.prototype;
}

/**
 * Packs a value for `postMessage`.
 *
 * @param where what the value is called in messages, e.g. `options.image`
 * @throws TypeError for what cannot be packed, by its name.
 */
export function encode(value: unknown, packing: Packing, where: string): Wire {
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return value;
  const own = packing.encode?.(value, where);
  if (own !== undefined) return own;
  if (value instanceof Tensor) {
    const { type, data, dims } = value as Tensor;
    return tagged({ kind: "tensor", type, data: pack(data, packing), dims: [...dims] });
  }
  if (value instanceof RawImage) {
    const { data, width, height, channels, metadata } = value;
    return tagged({ kind: "image", data: pack(data, packing), width, height, channels, metadata: { ...metadata } });
  }
  if (Array.isArray(value)) {
    return withFloats(
      value,
      value.map((item, i) => encode(item, packing, `${where}[${i}]`)),
    );
  }
  if (isPlainObject(value)) {
    const entries = Object.entries(value);
    return withFloats(
      value,
      Object.fromEntries(entries.map(([key, item]) => [key, encode(item, packing, `${where}.${key}`)])),
    );
  }
  if (value instanceof URL) return tagged({ kind: "url", href: value.href });
  if (value instanceof Error) return tagged({ kind: "error", error: serializeError(value) });
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return pack(value as Uint8Array, packing);
  if (isScheduler(value)) return tagged({ kind: "scheduler", id: 0, ...schedulerState(value) });
  // What the platform itself made (a Blob, a File, a folder's handle, an ImageBitmap) is for `postMessage` to judge.
  if (typeof value === "object" && isNative(value)) return value;
  throw new TypeError(`\`${where}\` is ${describe(value)}, which cannot be passed between a page and its worker.`);
}

/** The inverse of {@link encode}. @param decodeOwn what only this end knows how to unpack */
export function decode(wire: Wire, decodeOwn: (payload: Payload) => unknown): unknown {
  if (Array.isArray(wire)) return wire.map((item) => decode(item, decodeOwn));
  if (!isPlainObject(wire)) return wire;
  if (!isTagged(wire)) {
    return Object.fromEntries(Object.entries(wire).map(([key, item]) => [key, decode(item, decodeOwn)]));
  }
  const { payload } = wire;
  switch (payload.kind) {
    case "tensor":
      return new Tensor(payload.type, payload.data as TensorData<typeof payload.type>, payload.dims);
    case "image":
      return new RawImage(payload.data, payload.width, payload.height, payload.channels, payload.metadata);
    case "floats":
      return markFloats(decode(payload.value, decodeOwn) as object, payload.floats);
    case "error":
      return deserializeError(payload.error);
    case "url":
      return new URL(payload.href);
    case "scheduler":
      return payload.id === 0 ? makeScheduler(payload) : decodeOwn(payload);
    default:
      return decodeOwn(payload);
  }
}

function decodeData(wire: Wire): unknown {
  return decode(wire, ({ kind }) => {
    throw new TypeError(`A ${kind} is not expected here.`);
  });
}

/** All that makes up a scheduler, for a copy of it. */
export function schedulerState(scheduler: Scheduler): SchedulerState {
  const { config } = scheduler as unknown as ConfigMixin<object>;
  // Its tables stay its own, whatever is moved; and they may have been moved away with a result.
  const packing: Packing = { isMoved: false, transfer: new Set() };
  const state = Object.entries(scheduler).filter(([name, value]) => name !== "_config" && isData(value));
  return {
    className: scheduler.constructor.name,
    config: encode(config, packing, "config"),
    state: Object.fromEntries(state.map(([name, value]) => [name, encode(value, packing, name)])),
  };
}

/** Builds a copy of a scheduler. */
export function makeScheduler(state: SchedulerState): Scheduler {
  const schedulerClass = schedulerRegistry[state.className]!;
  const config = decodeData(state.config) as Record<string, unknown>;
  const declared = Object.keys((schedulerClass as unknown as typeof ConfigMixin).config_defaults);
  const fields = Object.entries(config).filter(([key]) => declared.includes(key));
  const scheduler = new schedulerClass(Object.fromEntries(fields) as never);
  (scheduler as unknown as ConfigMixin<object>).register_to_config(config);
  Object.assign(scheduler, decodeData(state.state));
  return scheduler;
}

/** Whether a value is data throughout: numbers, texts, tensors and arrays that are still there. */
export function isData(value: unknown): boolean {
  if (value === null) return true;
  if (value instanceof Tensor) return value.dims.reduce((size, dim) => size * dim, 1) === value.data.length;
  if (ArrayBuffer.isView(value)) return value.byteLength > 0;
  if (Array.isArray(value)) return value.every(isData);
  if (isPlainObject(value)) return Object.values(value).every(isData);
  return typeof value !== "object" && typeof value !== "function" && typeof value !== "symbol";
}

/** What a value is, for messages. */
export function describe(value: unknown): string {
  if (typeof value === "function" && value instanceof Function) return "a function";
  const name = (value as object | null)?.constructor?.name;
  return name === undefined ? typeof value : `${/^[AEIOU]/.test(name) ? "an" : "a"} ${name}`;
}

/** Whether an object is an instance of a class that is no data by itself: a pipeline, a model, a distribution. */
export function isInstance(value: object): boolean {
  if (typeof value === "function") return !((value as object) instanceof Function);
  if (value instanceof Tensor || value instanceof RawImage || value instanceof Error) return false;
  return !Array.isArray(value) && !isPlainObject(value) && !isNative(value);
}

function isNative({ constructor: made }: object): boolean {
  return typeof made === "function" && /\{\s*\[native code\]\s*\}$/.test(Function.prototype.toString.call(made));
}

/** An array that may be transferred: itself, where it may be given away and is all of its buffer, else a copy. */
function pack<T extends { readonly buffer: ArrayBufferLike; readonly byteLength: number; slice(): unknown }>(
  data: T,
  { isMoved, transfer }: Packing,
): T {
  const isWhole = data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength;
  const packed = isMoved && isWhole ? data : (data.slice() as T);
  transfer.add(packed.buffer as ArrayBuffer);
  return packed;
}

function withFloats(original: object, wire: Wire): Wire {
  const floats = floatsOf(original);
  return floats === undefined ? wire : tagged({ kind: "floats", value: wire, floats: [...floats] });
}
