/** Text encoders that other pipelines of Diffusers have: each is refused by the name that model_index.json gives it. */
import { UnsupportedModelError } from "@diffusers-web/core";
import { expect, it } from "vitest";
import { componentEntry } from "../../packages/pipelines/src/pipeline_loading_utils.ts";

it.each([
  ["transformers", "ChineseCLIPTextModel"],
  ["alt_diffusion", "RobertaSeriesModelWithTransformation"],
  ["transformers", "T5EncoderModel"],
  ["transformers", "BertModel"],
  ["paint_by_example", "PaintByExampleImageEncoder"],
  ["transformers", "toString"],
])("%s %s", (library, className) => {
  const load = (): unknown => componentEntry("text_encoder", [library, className], false);
  expect(load).toThrow(UnsupportedModelError);
  expect(load).toThrow(`text_encoder: the class ${className} of ${library} is not built`);
});
