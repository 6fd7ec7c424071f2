import {
  type AnyPipeline,
  AutoencoderKL,
  CLIPTextModel,
  CLIPTokenizer,
  DiffusionPipeline,
  EulerDiscreteScheduler,
  openSource,
  type Source,
  UNet2DConditionModel,
} from "@diffusers-web/pipelines";
import { memorySource, safetensorsBytes } from "../../models/cases.ts";
import type { FixtureSet, Place } from "./types.ts";

export async function load(
  { device, path }: Place,
  { shapes }: Pick<FixtureSet, "shapes">,
): Promise<Record<string, AnyPipeline>> {
  const [x4, x2] = [path("pipelines/upscale-tiny"), path("pipelines/latent-upscale-tiny")];
  const vaeOf = () => AutoencoderKL.from_pretrained(path("pipelines/sd1-tiny/vae"), { device });
  const textOf = async (name: string) => ({
    text_encoder: await CLIPTextModel.from_pretrained(path(`pipelines/${name}/text_encoder`), { device }),
    tokenizer: await CLIPTokenizer.from_pretrained(path(`pipelines/${name}/tokenizer`)),
  });
  const other = await vaeOf();
  other.register_to_config({ scaling_factor: 0.5 });
  const low_res_scheduler = new EulerDiscreteScheduler({
    beta_start: 0.0001,
    beta_end: 0.02,
    beta_schedule: "scaled_linear",
  });
  const parts = { vae: await vaeOf(), ...(await textOf("sd2-tiny")), device } as const;
  const first = await DiffusionPipeline.from_pretrained(x4, parts);
  const unet = first.unet as UNet2DConditionModel;
  // The latent upscaler's UNet is too large to keep: its weights are made of their names.
  const weights = memorySource("unet", {
    "diffusion_pytorch_model.safetensors": safetensorsBytes(shapes!.map(([name, shape]) => [name, shape, name])),
  });
  const folder = await openSource(path("pipelines/latent-upscale-tiny/unet"));
  const source: Source = { name: "unet", open: async (file) => (await weights.open(file)) ?? folder.open(file) };
  return {
    x4: first,
    "x4 other": await DiffusionPipeline.from_pretrained(x4, {
      ...{ ...parts, unet, vae: other, max_noise_level: 50 },
    } as object),
    "x4 Euler": await DiffusionPipeline.from_pretrained(x4, { ...parts, unet, low_res_scheduler }),
    x2: await DiffusionPipeline.from_pretrained(x2, {
      unet: await UNet2DConditionModel.from_pretrained(source, { device }),
      vae: await vaeOf(),
      ...(await textOf("sd1-tiny")),
    }),
  };
}
