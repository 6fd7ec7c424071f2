import { DPTForDepthEstimation } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const dpt: CaseRunner = runner(
  "dpt",
  DPTForDepthEstimation,
  [
    ...["hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"],
    ...["use_auxiliary_head", "auxiliary_loss_weight", "semantic_loss_ignore_index", "semantic_classifier_dropout"],
    ...["pooler_output_size", "pooler_act"],
    // There is one value that works.
    "neck_ignore_stages",
  ],
  async (model, { pixel_values }) => ({ predicted_depth: (await model(pixel_values!)).predicted_depth }),
);
