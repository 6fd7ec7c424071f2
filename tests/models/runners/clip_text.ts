import { Tensor } from "@diffusers-web/core";
import { CLIPTextModel, CLIPTextModelWithProjection, type CLIPTextOptions } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

const inert = ["attention_dropout", "initializer_range", "initializer_factor", "pad_token_id", "bos_token_id"];
type TextModel = CLIPTextModel | CLIPTextModelWithProjection;

async function run(model: TextModel, inputs: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const { input_ids, ...options } = inputs;
  const { hidden_states, ...outputs } = await model(
    input_ids as unknown as Tensor<"int64">,
    options as unknown as CLIPTextOptions,
  );
  if (hidden_states.length === 0) return { ...outputs };
  const skipped = await model.final_layer_norm(hidden_states.at(-2)!);
  return { ...outputs, hidden_states: Tensor.stack([...hidden_states]), skipped };
}

export const clipText: CaseRunner = runner("clip_text", CLIPTextModel, ["projection_dim", ...inert], run);

export const clipTextWithProjection: CaseRunner = runner("clip_text", CLIPTextModelWithProjection, inert, run);
