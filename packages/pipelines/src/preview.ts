import { Generator, type RawImage, Tensor } from "@diffusers-web/core";
import type { Autoencoder, AutoencoderTiny } from "@diffusers-web/models";
import type { VaeImageProcessor } from "./image_processor.ts";

/** What a preview is made with. */
export interface PreviewParts {
  readonly vae: Autoencoder;
  readonly image_processor: VaeImageProcessor;
  readonly preview_decoder: AutoencoderTiny | null;
}

/** A colour, red, green and blue in -1..1, as a linear function of one latent. */
export interface LatentProjection {
  /** One for each of the latent's channels. */
  readonly factors: readonly (readonly number[])[];
  readonly bias: readonly number[];
}

/** Stable Diffusion 1 and 2, and XL: figures of ComfyUI's `latent_formats.py`. */
const known: Readonly<Record<number, LatentProjection>> = {
  0.18215: {
    factors: [
      [0.3512, 0.2297, 0.3227],
      [0.325, 0.4974, 0.235],
      [-0.2829, 0.1762, 0.2721],
      [-0.212, -0.2616, -0.7177],
    ],
    bias: [0, 0, 0],
  },
  0.13025: {
    factors: [
      [0.392, 0.4054, 0.4549],
      [-0.2634, -0.0196, 0.0653],
      [0.0568, 0.1687, -0.0755],
      [-0.3112, -0.2359, -0.2076],
    ],
    bias: [0, 0, 0],
  },
};

const fitted = new WeakMap<Autoencoder, Promise<LatentProjection>>();

/**
 * Small or rough pictures of latents, much faster than with the pipeline's own autoencoder.
 *
 * @param latents `[batch, channels, height, width]`, scaled as the UNet knows them
 */
export async function decodePreview(parts: PreviewParts, latents: Tensor): Promise<RawImage[]> {
  const { vae, image_processor, preview_decoder } = parts;
  if (preview_decoder !== null) {
    const { sample } = await preview_decoder.decode(latents.div(preview_decoder.config.scaling_factor));
    return image_processor.postprocess(sample, "image") as RawImage[];
  }
  return image_processor.postprocess(project(latents, await projectionOf(vae)), "image") as RawImage[];
}

/** The projection for an autoencoder's latents: known, or fitted once to what its encoder makes of colours. */
function projectionOf(vae: Autoencoder): Promise<LatentProjection> {
  const { latent_channels, scaling_factor, block_out_channels } = vae.config;
  // The same numbers in a config are no proof of the same latents, but the size of the original models is.
  const isOriginal = latent_channels === 4 && String(block_out_channels) === "128,256,512,512";
  if (isOriginal && known[scaling_factor] !== undefined) return Promise.resolve(known[scaling_factor]);
  const earlier = fitted.get(vae);
  if (earlier !== undefined) return earlier;
  const fit = fitProjection(vae);
  fitted.set(vae, fit);
  // A call that failed is no reason for the next one to fail.
  fit.catch(() => fitted.delete(vae));
  return fit;
}

/** Each pixel of the result is one latent. */
function project(latents: Tensor, { factors, bias }: LatentProjection): Tensor {
  const [batch, channels, height, width] = latents.dims as [number, number, number, number];
  const size = height * width;
  const { data } = latents;
  const colours = new Float32Array(batch * 3 * size);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < 3; k++) {
        let sum = bias[k]!;
        for (let c = 0; c < channels; c++) sum += factors[c]![k]! * data[(b * channels + c) * size + i]!;
        colours[(b * 3 + k) * size + i] = sum;
      }
    }
  }
  return new Tensor("float32", colours, [batch, 3, height, width]);
}

/** Cells along a side of the pictures that a projection is fitted to, each of one latent. */
const side = 16;

/** By least squares: latents of pictures of smooth colours and plain patches, against the colours themselves. */
async function fitProjection(vae: Autoencoder): Promise<LatentProjection> {
  const { latent_channels, block_out_channels, scaling_factor } = vae.config;
  const factor = 2 ** (block_out_channels.length - 1);
  const batch = 2;
  const colours = cellColours(batch);
  const pixels = enlarge(colours, factor);
  const encoded = await vae.encode(pixels);
  const latents = ("latents" in encoded ? encoded.latents : encoded.latent_dist.mode()).mul(scaling_factor);

  const cells = side * side;
  const unknowns = latent_channels + 1;
  // The normal equations: (A^T A) x = A^T y, with a row (latent, 1) of A for each cell.
  const matrix = Array.from({ length: unknowns }, (_, i) =>
    Array.from({ length: unknowns + 3 }, (_, j) => (i === j ? 1e-6 : 0)),
  );
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < cells; i++) {
      const row = Array.from({ length: unknowns + 3 }, (_, c) => {
        if (c < latent_channels) return latents.data[(b * latent_channels + c) * cells + i]!;
        return c === latent_channels ? 1 : colours.data[(b * 3 + c - unknowns) * cells + i]!;
      });
      for (let r = 0; r < unknowns; r++) {
        for (let c = 0; c < unknowns + 3; c++) matrix[r]![c]! += row[r]! * row[c]!;
      }
    }
  }
  const solution = solve(matrix);
  return { factors: solution.slice(0, latent_channels), bias: solution[latent_channels]! };
}

/** `[batch, 3, side, side]` in -1..1: waves of every colour, with patches in them. */
function cellColours(batch: number): Tensor {
  const generator = new Generator().manual_seed(0);
  const data = new Float32Array(batch * 3 * side * side);
  for (let b = 0; b < batch; b++) {
    const { data: waves } = generator.randn([3, 3]);
    const { data: patches } = generator.randn([9, 3]);
    for (let k = 0; k < 3; k++) {
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++) {
          const wave = Math.sin(waves[k]! * 3 + (waves[3 + k]! * x + waves[6 + k]! * y) * 0.5);
          const patch = (Math.floor(y / 5) * 3 + Math.floor(x / 5)) % 9;
          const isPatch = (x % 5) + (y % 5) > 4;
          data[((b * 3 + k) * side + y) * side + x] = isPatch
            ? Math.max(-1, Math.min(1, patches[patch * 3 + k]!))
            : wave;
        }
      }
    }
  }
  return new Tensor("float32", data, [batch, 3, side, side]);
}

/** Each cell as a square of pixels. */
function enlarge(x: Tensor, factor: number): Tensor {
  return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3);
}

/** Solves for as many columns as there are beside the square part, by Gauss-Jordan elimination with pivots. */
function solve(matrix: number[][]): number[][] {
  const n = matrix.length;
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(matrix[r]![i]!) > Math.abs(matrix[pivot]![i]!)) pivot = r;
    [matrix[i], matrix[pivot]] = [matrix[pivot]!, matrix[i]!];
    const own = matrix[i]!.map((value) => value / matrix[i]![i]!);
    matrix[i] = own;
    for (let r = 0; r < n; r++) {
      if (r !== i) matrix[r] = matrix[r]!.map((value, c) => value - matrix[r]![i]! * own[c]!);
    }
  }
  return matrix.map((row) => row.slice(n));
}
