import { DeviceError } from "@diffusers-web/core";
import type { Target } from "../graph/types.ts";
import { type CheckedKernel, checkedKernels, type RunGraph, selfCheck } from "./self_check.ts";
import { createSession } from "./session.ts";

/** What a device was found to do wrong or to lack, and is therefore not used for. */
export interface Dropped {
  /** E.g. `subgroups`, `attention`, `float16`. */
  readonly what: string;
  readonly why: string;
}

/** What the self-check says of one element type. */
export interface Verdict {
  /** Undefined when a kernel that has no substitute computes wrong. */
  readonly target: Target | undefined;
  readonly dropped: readonly Dropped[];
}

/** Limits that decide which models fit and which kernels run; the engine would get the small defaults otherwise. */
const wantedLimits = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxUniformBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxBindingsPerBindGroup",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** In groups that run as one graph: what is known to go wrong with `subgroups`, what has no substitute, the rest. */
const attention: readonly CheckedKernel[] = ["attention"];
const essential: readonly CheckedKernel[] = ["conv", "nhwcConv", "gemm"];
const others = checkedKernels.filter((kernel) => !attention.includes(kernel) && !essential.includes(kernel));

/** The adapter, or why there is none. An adapter gives one device: ask again for the next. */
export async function requestAdapter(): Promise<GPUAdapter | string> {
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (gpu === undefined) {
    const why = globalThis.isSecureContext === false ? " (a page must be served over https: or from localhost)" : "";
    return `There is no WebGPU here${why}.`;
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  return adapter ?? "WebGPU has no adapter here: the GPU or its driver is not supported, or it is switched off.";
}

/** The name of a software adapter; undefined for a real one. */
export function softwareName({ info }: GPUAdapter): string | undefined {
  const names = [info.architecture, info.description, info.device, info.vendor].filter((name) => name !== "");
  const known = names.find((name) => /swiftshader|llvmpipe|lavapipe|softpipe|basic render/i.test(name));
  return known ?? (info.isFallbackAdapter ? (names[0] ?? "fallback adapter") : undefined);
}

/** Kernels that this version of the engine has in one element type only: the other's shader does not compile. */
const missing: Readonly<Record<Target["dtype"], readonly CheckedKernel[]>> = {
  float32: [],
  float16: ["biasSplitGelu"],
};

/** What the self-check found wrong, by adapter, features, element type and kernels: looked at once. */
const findings = new Map<string, Promise<Map<CheckedKernel, string>>>();

/** A GPUDevice of our own, whose numbers were checked. */
export class Gpu {
  /** Why the device is gone, once it is. */
  lost: DeviceError | undefined;
  /** What the device was opened without. */
  dropped: readonly Dropped[] = [];
  readonly limits: Readonly<Record<string, number>>;
  private readonly waiting = new Set<(error: DeviceError) => void>();

  private constructor(
    readonly device: GPUDevice,
    private readonly info: GPUAdapterInfo,
  ) {
    this.limits = Object.fromEntries(wantedLimits.map((name) => [name, device.limits[name]]));
    void device.lost.then(({ message, reason }) => {
      const text = message === "" ? reason : `${reason}: ${message}`;
      this.lost = new DeviceError(`The GPU was lost (${text}). Run again: a new device is requested then.`, {
        found: text,
      });
      for (const reject of this.waiting) reject(this.lost);
    });
  }

  /**
   * Opens the adapter's device with its own limits, and without `subgroups` when kernels compute wrong with them.
   *
   * @param dtype what models will most likely be run in
   * @throws DeviceError when the adapter gives no device.
   */
  static async open(dtype: Target["dtype"]): Promise<Gpu> {
    const gpu = await Gpu.request(true);
    if (!gpu.device.features.has("subgroups")) return gpu;
    let wrong = await gpu.findIn(dtype, attention);
    if (wrong.size === 0) wrong = await gpu.findIn(dtype, essential);
    if (wrong.size === 0) return gpu;
    // Seen on devices with subgroups of 4 and 8: attention's shuffles read lanes that are not there.
    gpu.device.destroy();
    const without = await Gpu.request(false);
    without.dropped = [...wrong].map(([kernel, why]) => ({ what: "subgroups", why: `with them, ${kernel} ${why}` }));
    return without;
  }

  private static async request(subgroups: boolean): Promise<Gpu> {
    const adapter = await requestAdapter();
    if (typeof adapter === "string") throw new DeviceError(adapter, { found: adapter, expected: "WebGPU" });
    const wanted: GPUFeatureName[] = subgroups ? ["shader-f16", "subgroups"] : ["shader-f16"];
    try {
      const device = await adapter.requestDevice({
        requiredFeatures: wanted.filter((feature) => adapter.features.has(feature)),
        requiredLimits: Object.fromEntries(wantedLimits.map((name) => [name, adapter.limits[name]])),
      });
      return new Gpu(device, adapter.info);
    } catch (cause) {
      throw new DeviceError(`The GPU gave no device: ${(cause as Error).message}`, {}, { cause });
    }
  }

  /** What may be used in an element type: checked once, when it is first asked for. */
  async check(dtype: Target["dtype"]): Promise<Verdict> {
    const absent = missing[dtype];
    const wrong = new Map(absent.map((kernel) => [kernel, `has no kernel in ${dtype}`]));
    for (const kernels of [attention, essential, others.filter((kernel) => !absent.includes(kernel))]) {
      for (const [kernel, why] of await this.findIn(dtype, kernels)) wrong.set(kernel, why);
    }
    const isRight = (kernel: CheckedKernel): boolean => !wrong.has(kernel);
    const target: Target = {
      layout: isRight("nhwcConv") ? "nhwc" : "nchw",
      dtype,
      fused: {
        attention: isRight("attention"),
        groupNorm: isRight("groupNorm") && isRight("nhwcConv"),
        biasSplitGelu: isRight("biasSplitGelu"),
        quickGelu: isRight("quickGelu"),
        skipLayerNorm: isRight("skipLayerNorm"),
      },
    };
    return {
      target: isRight("conv") && isRight("gemm") ? target : undefined,
      dropped: [...wrong].map(([what, why]) => ({ what, why })),
    };
  }

  /** In the element types that graphs of `dtype` use: some parts of a float16 model run in float32. */
  private async findIn(
    dtype: Target["dtype"],
    kernels: readonly CheckedKernel[],
  ): Promise<ReadonlyMap<CheckedKernel, string>> {
    const wrong = await this.find(dtype, kernels);
    return dtype === "float32" ? wrong : new Map([...(await this.find("float32", kernels)), ...wrong]);
  }

  private find(dtype: Target["dtype"], kernels: readonly CheckedKernel[]): Promise<Map<CheckedKernel, string>> {
    const { vendor, architecture, device, description } = this.info;
    const key = JSON.stringify([vendor, architecture, device, description, [...this.device.features], dtype, kernels]);
    let finding = findings.get(key);
    if (finding === undefined) {
      finding = selfCheck(this.runOnce, dtype, kernels).then((wrong) => {
        // Not the kernels' fault.
        if (this.lost !== undefined) throw this.lost;
        return wrong;
      });
      findings.set(key, finding);
      finding.catch(() => findings.delete(key));
    }
    return finding;
  }

  private readonly runOnce: RunGraph = async (graph, feeds) => {
    // A kernel that the GPU lacks would run on the processor, with copies there and back: its substitute is faster.
    const session = await createSession(graph, { type: "webgpu", gpu: this }, { forbidCpuNodes: true });
    try {
      return await session.run(feeds);
    } finally {
      await session.dispose();
    }
  };

  /**
   * What the engine answers, unless the device is lost before: the engine may never answer then.
   *
   * @throws DeviceError when the device is lost.
   */
  async untilLost<T>(call: () => Promise<T>): Promise<T> {
    if (this.lost !== undefined) throw this.lost;
    return new Promise<T>((resolve, reject) => {
      this.waiting.add(reject);
      call()
        // A loss is reported a moment after the calls that it breaks.
        .then(resolve, (error: unknown) => setTimeout(() => reject(this.lost ?? error)))
        .finally(() => this.waiting.delete(reject));
    });
  }
}
