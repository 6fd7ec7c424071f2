import type { ModelMixin } from "@diffusers-web/models";
import type { Target } from "../../packages/models/src/graph/types.ts";

/** Makes a model's device a pretended one, for which its graphs are built from then on: no real one has this target. */
export function setTarget(model: ModelMixin<object>, target: Target): void {
  const { loaded } = model as unknown as { loaded: { device: { target: Target } } };
  loaded.device = { ...loaded.device, target };
}

/** What a model's graphs are built for. */
export function targetOf(model: ModelMixin<object>): Target {
  return (model as unknown as { loaded: { device: { target: Target } } }).loaded.device.target;
}
