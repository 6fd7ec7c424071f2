import type { IPScaleConfig, UNet2DConditionModel } from "@diffusers-web/models";
import { Weights } from "../../../packages/models/src/weights.ts";
import { safetensorsBytes, type TensorShape } from "../formula.ts";

/** What tests/fixtures/models/cases/unet_attention.py does to a model before the call. */
export interface UNetSetup {
  /** The tensors of each IP-Adapter. */
  readonly ip_adapters?: readonly (readonly [name: string, shape: readonly number[]][])[];
  readonly ip_adapter_scale?: number | IPScaleConfig;
  readonly freeu?: readonly [s1: number, s2: number, b1: number, b2: number];
  readonly attention_slice?: "auto" | "max" | number;
}

/** The weights of an IP-Adapter, from the formula of their names. */
export function adapterWeights(shapes: readonly (readonly [name: string, shape: readonly number[]])[], i = 0): Weights {
  const path = `ip_adapter_${i}.safetensors`;
  const bytes = safetensorsBytes(shapes.map(([name, shape]): TensorShape => [name, shape, `${i}.${name}`]));
  const readSync = (begin: number, end: number): Uint8Array => bytes.subarray(begin, end);
  return new Weights([{ path, size: bytes.length, readSync, close: () => {} }]);
}

export function setUp(model: UNet2DConditionModel, setup: UNetSetup): void {
  const { ip_adapters, ip_adapter_scale, freeu, attention_slice } = setup;
  if (ip_adapters !== undefined) model.set_ip_adapters(ip_adapters.map(adapterWeights));
  if (ip_adapter_scale !== undefined) model.set_ip_adapter_scale(ip_adapter_scale);
  if (freeu !== undefined) model.enable_freeu(...freeu);
  if (attention_slice !== undefined) model.set_attention_slice(attention_slice);
}
