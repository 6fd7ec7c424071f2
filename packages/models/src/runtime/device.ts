import { DeviceError, isNode, nearest } from "@diffusers-web/core";
import type { FusedKernels, Target } from "../graph/types.ts";
import { type CheckedKernel, checkedKernels, selfCheck } from "./self_check.ts";
import { createSession } from "./session.ts";

/** Where a model may run: on the GPU, on the processor, or `auto`: on the GPU if there is a real one. */
export type DeviceRequest = "auto" | "webgpu" | "wasm";

/** The element type of weights and intermediate values; `auto` is fp16 where the GPU has it. */
export type DtypeRequest = "auto" | "fp16" | "fp32" | "float16" | "float32";

/** What a device was found to do wrong or to lack, and what is done about it. */
export interface Dropped {
  /** E.g. `subgroups`, `attention`, `float16`. */
  readonly what: string;
  readonly why: string;
}

/** What is known of a device, as plain data. */
export interface DeviceInfo {
  readonly type: "webgpu" | "wasm";
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  /** WebGPU features in use. */
  readonly features: readonly string[];
  /** WebGPU limits in use, in bytes where they are sizes. Empty for `wasm`. */
  readonly limits: Readonly<Record<string, number>>;
  readonly dtype: Target["dtype"];
  readonly dropped: readonly Dropped[];
  /** Why this device was chosen. */
  readonly reason: string;
}

/** A device that models run on. */
export class Device {
  /** Why the device is gone, once it is: models on it have to move to a new one. */
  lost: DeviceError | undefined;

  constructor(
    readonly type: "webgpu" | "wasm",
    readonly target: Target,
    readonly info: DeviceInfo,
    readonly gpu?: GPUDevice,
  ) {
    void gpu?.lost.then(({ message, reason }) => {
      this.lost = new DeviceError(
        `The GPU was lost (${reason}${message === "" ? "" : `: ${message}`}). Run again: a new device is requested.`,
        { found: reason },
      );
    });
  }

  /**
   * What the engine answers, unless the GPU is lost before: the engine may never answer then.
   *
   * @throws DeviceError when the device is lost.
   */
  untilLost<T>(answer: Promise<T>): Promise<T> {
    if (this.gpu === undefined) return answer;
    const lost = this.gpu.lost.then(() => {
      throw this.lost;
    });
    return Promise.race([answer, lost]);
  }
}

let openGpu: Promise<Gpu> | undefined;
const devices = new Map<string, Promise<Device>>();

/**
 * The device to run models on. The GPU is checked once, numerically, and what it computes wrong is not used.
 *
 * @param request default `auto`: WebGPU on a real adapter, else WASM
 * @param dtype default `auto`: fp16 on an adapter with `shader-f16`, else fp32
 * @throws DeviceError when the device asked for by name is not there, or lacks fp16 that was asked for by name.
 * @throws TypeError for an unknown device or dtype.
 */
export async function getDevice(request: DeviceRequest = "auto", dtype: DtypeRequest = "auto"): Promise<Device> {
  checkName("device", request, ["auto", "webgpu", "wasm"]);
  checkName("dtype", dtype, ["auto", "fp16", "fp32", "float16", "float32"]);
  const key = `${request} ${dtype}`;
  let device = devices.get(key);
  if (device === undefined || (await device.catch(() => undefined))?.lost !== undefined) {
    device = request === "wasm" ? Promise.resolve(wasm(dtype, "Asked for by name.")) : openDevice(request, dtype);
    devices.set(key, device);
    device.catch(() => devices.delete(key));
  }
  return device;
}

function checkName(option: string, value: string, known: readonly string[]): void {
  if (known.includes(value)) return;
  const guess = nearest(String(value), known);
  const hint = guess === undefined ? `Known: ${known.join(", ")}.` : `Did you mean "${guess}"?`;
  throw new TypeError(`Unknown ${option} ${JSON.stringify(value)}. ${hint}`);
}

function wasm(dtype: DtypeRequest, reason: string): Device {
  if (dtype === "fp16" || dtype === "float16") {
    throw new DeviceError(`${reason} Device "wasm" computes in fp32 only: leave dtype out, or use "fp32".`, {
      field: "dtype",
      found: dtype,
      expected: "fp32",
    });
  }
  const fused = { attention: true, groupNorm: false, biasSplitGelu: false, quickGelu: true, skipLayerNorm: true };
  const target: Target = { layout: "nchw", dtype: "float32", fused };
  const description = isNode ? `Node ${process.version}` : "WebAssembly";
  return new Device("wasm", target, {
    type: "wasm",
    vendor: "",
    architecture: "",
    description,
    features: [],
    limits: {},
    dtype: "float32",
    dropped: [],
    reason,
  });
}

async function openDevice(request: "auto" | "webgpu", dtype: DtypeRequest): Promise<Device> {
  const byName = request === "webgpu" || isHalf(dtype);
  const adapter = await requestAdapter();
  if (typeof adapter === "string") {
    if (!byName) return wasm(dtype, `${adapter} WASM is used instead.`);
    throw new DeviceError(`${adapter} Use device "wasm" or "auto", with dtype "fp32".`, {
      found: adapter,
      expected: "WebGPU",
    });
  }
  const software = softwareName(adapter);
  if (request === "auto" && software !== undefined) {
    return wasm(dtype, `The only GPU adapter is a software one (${software}), which is slower than WASM.`);
  }
  try {
    return await gpuDevice(adapter, dtype, request === "auto" ? "A GPU adapter was found." : "Asked for by name.");
  } catch (error) {
    if (byName || !(error instanceof DeviceError)) throw error;
    // The fallback that `auto` names: any GPU trouble means WASM, with the reason kept.
    return wasm(dtype, `${error.message} WASM is used instead.`);
  }
}

async function gpuDevice(adapter: GPUAdapter, request: DtypeRequest, reason: string): Promise<Device> {
  const hasHalf = adapter.features.has("shader-f16");
  if (isHalf(request) && !hasHalf) {
    throw new DeviceError(
      `The GPU (${softwareName(adapter) ?? adapter.info.vendor}) lacks the feature shader-f16, which fp16 needs. ` +
        'Leave dtype out, or use "fp32".',
      { field: "dtype", found: "no shader-f16", expected: "shader-f16" },
    );
  }
  const first: Target["dtype"] = request === "auto" ? (hasHalf ? "float16" : "float32") : dtypeOf(request);
  const gpu = await sharedGpu(first);
  let checked = await gpu.check(first);
  const dropped = [...gpu.dropped, ...checked.dropped];
  if (checked.target === undefined && request === "auto" && first === "float16") {
    dropped.push({ what: "float16", why: "the kernels without a substitute compute wrong in it" });
    checked = await gpu.check("float32");
    dropped.push(...checked.dropped);
  }
  if (checked.target === undefined) {
    const why = dropped.map((one) => `${one.what} ${one.why}`).join("; ");
    throw new DeviceError(`The GPU computes wrong: ${why}. Update its driver, or use device "wasm".`, { found: why });
  }
  const { vendor, architecture, description } = adapter.info;
  const info: DeviceInfo = {
    type: "webgpu",
    vendor,
    architecture,
    description,
    features: [...gpu.device.features].sort(),
    limits: limitsOf(gpu.device),
    dtype: checked.target.dtype,
    dropped,
    reason,
  };
  return new Device("webgpu", checked.target, info, gpu.device);
}

/** The one GPUDevice of this page, opened anew after the last one was lost. */
async function sharedGpu(dtype: Target["dtype"]): Promise<Gpu> {
  if (openGpu === undefined) {
    const opening = Gpu.open(dtype, (device, target) => new Device("webgpu", target, provisional(target), device));
    openGpu = opening;
    const forget = (): void => {
      if (openGpu === opening) openGpu = undefined;
    };
    opening.then((gpu) => gpu.device.lost.then(forget), forget);
  }
  return openGpu;
}
