import { DeviceError, isNode, nearest } from "@diffusers-web/core";
import type { Target } from "../graph/types.ts";
import { type Dropped, Gpu, requestAdapter, softwareName } from "./gpu.ts";

/** Where a model may run: on the GPU, on the processor, or `auto`: on the GPU if there is a real one. */
export type DeviceRequest = "auto" | "webgpu" | "wasm";

/** The element type of weights and intermediate values; `auto` is fp16 where the GPU has it. */
export type DtypeRequest = "auto" | "fp16" | "fp32" | "float16" | "float32";

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
export interface Device {
  readonly type: "webgpu" | "wasm";
  /** What graphs are built for. */
  readonly target: Target;
  readonly info: DeviceInfo;
  /** Absent for `wasm`. */
  readonly gpu?: Gpu;
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
  let opening = devices.get(key);
  if (opening === undefined) {
    opening = openDevice(request, dtype);
    devices.set(key, opening);
    const forget = (): boolean => devices.delete(key);
    opening.then(({ gpu }) => gpu?.device.lost.then(forget), forget);
  }
  return opening;
}

function checkName(option: string, value: string, known: readonly string[]): void {
  if (known.includes(value)) return;
  const guess = nearest(String(value), known);
  const hint = guess === undefined ? `Known: ${known.join(", ")}.` : `Did you mean "${guess}"?`;
  throw new TypeError(`Unknown ${option} ${JSON.stringify(value)}. ${hint}`);
}

function wasm(dtype: DtypeRequest, reason: string): Device {
  if (isHalf(dtype)) {
    throw new DeviceError(`${reason} Device "wasm" computes in fp32 only: leave dtype out, or use "fp32".`, {
      field: "dtype",
      found: dtype,
      expected: "fp32",
    });
  }
  const fused = { attention: true, groupNorm: false, biasSplitGelu: false, quickGelu: true, skipLayerNorm: true };
  const target: Target = { layout: "nchw", dtype: "float32", fused };
  const description = isNode ? `Node ${process.version}` : "WebAssembly";
  const info: DeviceInfo = {
    type: "wasm",
    vendor: "",
    architecture: "",
    description,
    features: [],
    limits: {},
    dtype: "float32",
    dropped: [],
    reason,
  };
  return { type: "wasm", target, info };
}

function isHalf(dtype: DtypeRequest): boolean {
  return dtype === "fp16" || dtype === "float16";
}

async function openDevice(request: DeviceRequest, dtype: DtypeRequest): Promise<Device> {
  if (request === "wasm") return wasm(dtype, "Asked for by name.");
  const byName = request === "webgpu" || isHalf(dtype);
  const adapter = await requestAdapter();
  if (typeof adapter === "string") {
    if (!byName) return wasm(dtype, `${adapter} WASM is used instead.`);
    throw new DeviceError(`${adapter} Use device "wasm" or "auto", with dtype "fp32" or none.`, {
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
  const { vendor, architecture, description } = adapter.info;
  const hasHalf = adapter.features.has("shader-f16");
  if (isHalf(request) && !hasHalf) {
    throw new DeviceError(
      `The GPU (${[vendor, architecture].join(" ").trim()}) lacks the feature shader-f16, which fp16 needs. ` +
        'Leave dtype out, or use "fp32".',
      { field: "dtype", found: "no shader-f16", expected: "shader-f16" },
    );
  }
  const first = isHalf(request) || (request === "auto" && hasHalf) ? "float16" : "float32";
  const gpu = await sharedGpu(first);
  let verdict = await gpu.check(first);
  const dropped = [...gpu.dropped, ...verdict.dropped];
  if (verdict.target === undefined && request === "auto" && first === "float16") {
    dropped.push({ what: "float16", why: "kernels that have no substitute compute wrong in it" });
    verdict = await gpu.check("float32");
    dropped.push(...verdict.dropped);
  }
  const { target } = verdict;
  if (target === undefined) {
    const why = dropped.map((one) => `${one.what} ${one.why}`).join("; ");
    throw new DeviceError(`The GPU computes wrong: ${why}. Update its driver, or use device "wasm".`, { found: why });
  }
  const info: DeviceInfo = {
    type: "webgpu",
    vendor,
    architecture,
    description,
    features: [...gpu.device.features].sort(),
    limits: gpu.limits,
    dtype: target.dtype,
    dropped,
    reason,
  };
  return { type: "webgpu", target, info, gpu };
}

/** The one GPUDevice of this page, opened anew after the last one was lost. */
function sharedGpu(dtype: Target["dtype"]): Promise<Gpu> {
  if (openGpu === undefined) {
    const opening = Gpu.open(dtype);
    openGpu = opening;
    const forget = (): void => {
      if (openGpu === opening) openGpu = undefined;
    };
    opening.then((gpu) => gpu.device.lost.then(forget), forget);
  }
  return openGpu;
}
