import type { CallRunner } from "./types.ts";

/** The runner of a fixture set of tests/fixtures/pipelines: a module of this folder. */
export const runners: Readonly<Record<string, () => Promise<CallRunner>>> = {
  pipelines: () => import("./pipelines.ts"),
  img2img: () => import("./img2img.ts"),
  inpaint: () => import("./inpaint.ts"),
  depth2img: () => import("./depth2img.ts"),
  sdxl: () => import("./sdxl.ts"),
  unconditional: () => import("./unconditional.ts"),
  lcm: () => import("./lcm.ts"),
  upscale: () => import("./upscale.ts"),
  sdxl_inpaint: () => import("./sdxl_inpaint.ts"),
  pix2pix: () => import("./pix2pix.ts"),
  image_variation: () => import("./image_variation.ts"),
  controlnet: () => import("./controlnet.ts"),
  t2i_adapter: () => import("./t2i_adapter.ts"),
  ip_adapter: () => import("./ip_adapter.ts"),
  pag: () => import("./pag.ts"),
  lora: () => import("./lora.ts"),
  textual_inversion: () => import("./textual_inversion.ts"),
  prompts: () => import("./prompts.ts"),
  combined: () => import("./combined.ts"),
};
