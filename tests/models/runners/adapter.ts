import { Tensor } from "@diffusers-web/core";
import { T2IAdapter } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const adapter: CaseRunner = runner("adapter", T2IAdapter, [], async (model, { x }) => {
  const features = (await model(x!)).map((feature, i) => [`feature_${i}`, feature] as const);
  const factors = Tensor.from([model.total_downscale_factor, model.downscale_factor]);
  return { ...Object.fromEntries(features), factors };
});
