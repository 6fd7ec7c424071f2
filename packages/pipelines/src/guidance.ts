import { Tensor, ValueError } from "@diffusers-web/core";

/** What {@link apply_guidance} returns. */
export interface GuidedNoise {
  /** `[batch, channels, height, width]`: the prediction to step with. */
  readonly noise_pred: Tensor;
  /** The half of the prediction that saw the text. */
  readonly noise_pred_text: Tensor;
}

/**
 * Classifier-free guidance: away from the prediction without the text, towards the one with it.
 *
 * @param noise_pred `[2 * batch, channels, height, width]`: without the text, then with it
 * @param guidance_scale w of the paper plus one: 1 is no guidance
 * @see Ho, Salimans, "Classifier-Free Diffusion Guidance", https://arxiv.org/abs/2207.12598, eq. (6)
 */
export function apply_guidance(noise_pred: Tensor, guidance_scale: number): GuidedNoise {
  const [noise_pred_uncond, noise_pred_text] = noise_pred.chunk(2) as [Tensor, Tensor];
  const [u, c] = [noise_pred_uncond.data, noise_pred_text.data];
  const scale = Math.fround(guidance_scale);
  const guided = new Float32Array(c.length);
  for (let i = 0; i < guided.length; i++) {
    guided[i] = u[i]! + Math.fround(scale * Math.fround(c[i]! - u[i]!));
  }
  return { noise_pred: new Tensor("float32", guided, noise_pred_text.dims), noise_pred_text };
}

/**
 * Guidance by a picture beside the text: away from the prediction that sees neither, towards the picture, and from there
 * towards the text.
 *
 * @param noise_pred `[3 * batch, channels, height, width]`: with text and picture, with the picture alone, with neither
 * @param guidance_scale s_T of the paper
 * @param image_guidance_scale s_I of the paper
 * @see Brooks et al., "InstructPix2Pix", https://arxiv.org/abs/2211.09800, eq. (3)
 */
export function apply_image_guidance(
  noise_pred: Tensor,
  guidance_scale: number,
  image_guidance_scale: number,
): GuidedNoise {
  const [noise_pred_text, noise_pred_image, noise_pred_uncond] = noise_pred.chunk(3) as [Tensor, Tensor, Tensor];
  const [c, p, u] = [noise_pred_text.data, noise_pred_image.data, noise_pred_uncond.data];
  const [text, image] = [Math.fround(guidance_scale), Math.fround(image_guidance_scale)];
  const guided = new Float32Array(c.length);
  for (let i = 0; i < guided.length; i++) {
    const towards = Math.fround(u[i]! + Math.fround(text * Math.fround(c[i]! - p[i]!)));
    guided[i] = towards + Math.fround(image * Math.fround(p[i]! - u[i]!));
  }
  return { noise_pred: new Tensor("float32", guided, noise_pred_text.dims), noise_pred_text };
}

/**
 * Brings a guided prediction back to the spread of the one that saw the text, sample by sample: strong guidance would
 * over-expose the picture.
 *
 * @param noise_cfg `[batch, ...]`: the guided prediction
 * @param noise_pred_text `[batch, ...]`: the prediction that saw the text
 * @param guidance_rescale phi of the paper: 0 leaves the prediction as it is, 1 rescales it fully. Default 0
 * @see Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", https://arxiv.org/abs/2305.08891, section 3.4
 */
export function rescale_noise_cfg(noise_cfg: Tensor, noise_pred_text: Tensor, guidance_rescale = 0): Tensor {
  const batch = noise_cfg.dims[0]!;
  const size = noise_cfg.size / batch;
  const phi = Math.fround(guidance_rescale);
  const rest = Math.fround(1 - guidance_rescale);
  const rescaled = new Float32Array(noise_cfg.size);
  for (let begin = 0; begin < rescaled.length; begin += size) {
    const cfg = noise_cfg.data.subarray(begin, begin + size);
    const ratio = Math.fround(deviation(noise_pred_text.data.subarray(begin, begin + size)) / deviation(cfg));
    for (let i = 0; i < size; i++) {
      rescaled[begin + i] = Math.fround(phi * Math.fround(cfg[i]! * ratio)) + Math.fround(rest * cfg[i]!);
    }
  }
  return new Tensor("float32", rescaled, noise_cfg.dims);
}

/** The unbiased standard deviation, rounded to float32. */
function deviation(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  const mean = sum / values.length;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return Math.fround(Math.sqrt(squares / (values.length - 1)));
}

/**
 * The guidance scale as sines and cosines, for models that were distilled with it as an input.
 *
 * @param w guidance scale minus one, one per sample
 * @param embedding_dim the model's `time_cond_proj_dim`, at least 4. Default 512
 * @returns `[w.length, embedding_dim]`
 * @throws ValueError for an `embedding_dim` below 4.
 * @see Diffusers `get_guidance_scale_embedding`; https://arxiv.org/abs/2210.03142
 */
export function get_guidance_scale_embedding(w: readonly number[], embedding_dim = 512): Tensor {
  const half = Math.floor(embedding_dim / 2);
  if (half < 2) {
    throw new ValueError(`embedding_dim is ${embedding_dim}: there must be room for two sines and two cosines.`, {
      field: "embedding_dim",
      found: String(embedding_dim),
      expected: "at least 4",
    });
  }
  const embedding = new Float32Array(w.length * embedding_dim);
  const step = Math.fround(Math.fround(Math.log(10000)) / (half - 1));
  w.forEach((value, row) => {
    const scaled = Math.fround(Math.fround(value) * 1000);
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(scaled * Math.fround(Math.exp(Math.fround(i * -step))));
      embedding[row * embedding_dim + i] = Math.sin(angle);
      embedding[row * embedding_dim + half + i] = Math.cos(angle);
    }
  });
  return new Tensor("float32", embedding, [w.length, embedding_dim]);
}
