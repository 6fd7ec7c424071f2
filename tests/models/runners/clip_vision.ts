import { Tensor } from "@diffusers-web/core";
import { CLIPVisionModel, CLIPVisionModelWithProjection, type CLIPVisionOptions } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

const training = ["attention_dropout", "initializer_range", "initializer_factor"];

function statesOf(hidden_states: readonly Tensor[]): Record<string, Tensor> {
  return hidden_states.length === 0 ? {} : { hidden_states: Tensor.stack([...hidden_states]) };
}

export const clipVision: CaseRunner = runner(
  "clip_vision",
  CLIPVisionModel,
  ["projection_dim", ...training],
  async (model, { pixel_values, ...options }) => {
    const { hidden_states, ...outputs } = await model(pixel_values!, options as CLIPVisionOptions);
    return { ...outputs, ...statesOf(hidden_states) };
  },
);

export const clipVisionWithProjection: CaseRunner = runner(
  "clip_vision",
  CLIPVisionModelWithProjection,
  training,
  async (model, { pixel_values, ...options }) => {
    const { hidden_states, ...outputs } = await model(pixel_values!, options as CLIPVisionOptions);
    return { ...outputs, ...statesOf(hidden_states) };
  },
);
