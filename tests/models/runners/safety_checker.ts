import { Tensor } from "@diffusers-web/core";
import { StableDiffusionSafetyChecker } from "@diffusers-web/models";
import { type CaseRunner, runner } from "./types.ts";

export const safetyChecker: CaseRunner = runner(
  "safety_checker",
  StableDiffusionSafetyChecker,
  ["logit_scale_init_value", "initializer_factor"],
  async (model, { clip_input, images }) => {
    // What it judges by is no output of its own.
    const inner = model as unknown as { judge(image_embeds: Tensor): boolean[] };
    const judge = inner.judge.bind(model);
    let image_embeds: Tensor | undefined;
    inner.judge = (embeds) => {
      image_embeds = embeds;
      return judge(embeds);
    };
    const { warn } = console;
    console.warn = () => undefined;
    try {
      const checked = await model(clip_input!, images!);
      const flags = Tensor.from(checked.has_nsfw_concepts.map(Number));
      return { image_embeds: image_embeds!, images: checked.images, flags };
    } finally {
      console.warn = warn;
    }
  },
);
