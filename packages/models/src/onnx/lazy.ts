import type { ORTTextEncoder } from "./ort_text_encoder.ts";
import type { ORTUnet } from "./ort_unet.ts";
import type { ORTVae } from "./ort_vae.ts";

/** The classes of models that are ONNX exports, in Optimum's names, each loaded when a repository has one. */
export const onnxModels: {
  readonly ORTTextEncoder: () => Promise<typeof ORTTextEncoder>;
  readonly ORTUnet: () => Promise<typeof ORTUnet>;
  readonly ORTVae: () => Promise<typeof ORTVae>;
} = {
  ORTTextEncoder: async () => (await import("./ort_text_encoder.ts")).ORTTextEncoder,
  ORTUnet: async () => (await import("./ort_unet.ts")).ORTUnet,
  ORTVae: async () => (await import("./ort_vae.ts")).ORTVae,
};
