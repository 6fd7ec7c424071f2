import { Tensor } from "@diffusers-web/core";
import { CLIPTextModel } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const clipText: CaseRunner = runner(
  "clip_text",
  CLIPTextModel,
  [
    ...["projection_dim", "attention_dropout", "initializer_range", "initializer_factor"],
    ...["pad_token_id", "bos_token_id"],
  ],
  async (model, { input_ids, ...rest }) => {
    const output = await model(input_ids as unknown as Tensor<"int64">, rest);
    return {
      last_hidden_state: output.last_hidden_state,
      pooler_output: output.pooler_output,
      hidden_states: Tensor.stack([...output.hidden_states]),
      skipped: await model.final_layer_norm(output.hidden_states.at(-2)!),
    };
  },
);
