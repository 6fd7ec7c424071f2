import type { Tensor } from "@diffusers-web/core";
import { VQModel } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const vqModel: CaseRunner = {
  ...runner(
    "vq_model",
    VQModel,
    ["sample_size", "scaling_factor", "force_upcast"],
    async (model, { x, z, codes, shape }) => {
      const decoded = await model.decode(z!);
      const outputs: Record<string, Tensor> = {
        latents: (await model.encode(x!)).latents,
        decoded: decoded.sample,
        commit_loss: decoded.commit_loss,
        forward: (await model(x!)).sample,
      };
      if (codes === undefined) {
        outputs["unquantised"] = (await model.decode(z!, { force_not_quantize: true })).sample;
      } else {
        const options = { force_not_quantize: true, shape: shape as unknown as number[] };
        outputs["coded"] = (await model.decode(codes, options)).sample;
      }
      return outputs;
    },
  ),
  // Latents become the nearest entry of the codebook.
  jumps: ["forward"],
};
