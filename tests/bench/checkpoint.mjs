// Checkpoints of true size, made up as they are served: a header of the true names and shapes, and random numbers. They
// take no room in memory or on the disk.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";

/** What is read at most at once. */
const PIECE = 256 * 1024;
/** The numbers repeat after so many bytes: a length that no tensor's is a multiple of. */
const PERIOD = 2 * 524_287;

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const compressed = (name) => JSON.parse(gunzipSync(readFileSync(path(name))).toString());
const text = (name) => readFileSync(path(name), "utf8");

/** Half floats between 2^-7 and 2^-4, of either sign: near the weights of trained models, so that nothing overflows. */
function numbers() {
  const halves = new Uint16Array((PERIOD + PIECE) / 2);
  let state = 1;
  for (let i = 0; i < PERIOD / 2; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const exponent = 8 + ((state >>> 26) % 3);
    halves[i] = ((state >>> 31) << 15) | (exponent << 10) | ((state >>> 14) & 1023);
  }
  halves.copyWithin(PERIOD / 2, 0, PIECE / 2);
  return Buffer.from(halves.buffer);
}

/**
 * A safetensors file of random float16 tensors, as the test hub serves it.
 *
 * @param {Record<string, number[]>} shapes
 */
export function randomWeights(shapes) {
  let at = 0;
  const header = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const begin = at;
      at += shape.reduce((product, dim) => product * dim, 2);
      return [name, { dtype: "F16", shape, data_offsets: [begin, at] }];
    }),
  );
  const json = JSON.stringify(header);
  const padded = json + " ".repeat((8 - (json.length % 8)) % 8);
  const head = Buffer.alloc(8 + padded.length);
  head.writeBigUInt64LE(BigInt(padded.length));
  head.write(padded, 8);
  const data = numbers();
  const read = (begin, end) => {
    const from = Math.max(0, begin - head.length) % PERIOD;
    const rest = data.subarray(from, from + Math.max(0, end - Math.max(begin, head.length)));
    return begin < head.length ? Buffer.concat([head.subarray(begin, Math.min(end, head.length)), rest]) : rest;
  };
  const size = head.length + at;
  const hash = createHash("sha256");
  for (let offset = 0; offset < size; offset += PIECE) hash.update(read(offset, Math.min(offset + PIECE, size)));
  return { size, read, sha256: hash.digest("hex") };
}

/** The files of Stable Diffusion 1.5, with a small vocabulary; its weights' sum is 2.1 GB in float16. */
export function stableDiffusion15() {
  const models = compressed("../fixtures/models/architectures.json.gz");
  const files = {
    "model_index.json": JSON.stringify({
      _class_name: "StableDiffusionPipeline",
      _diffusers_version: "0.6.0",
      feature_extractor: [null, null],
      safety_checker: [null, null],
      requires_safety_checker: false,
      scheduler: ["diffusers", "PNDMScheduler"],
      text_encoder: ["transformers", "CLIPTextModel"],
      tokenizer: ["transformers", "CLIPTokenizer"],
      unet: ["diffusers", "UNet2DConditionModel"],
      vae: ["diffusers", "AutoencoderKL"],
    }),
    "scheduler/scheduler_config.json": text("../fixtures/pipelines/sd1-tiny/scheduler/scheduler_config.json"),
  };
  for (const file of ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]) {
    files[`tokenizer/${file}`] = text(`../fixtures/pipelines/sd1-tiny/tokenizer/${file}`);
  }
  const tokenizer = JSON.parse(files["tokenizer/tokenizer_config.json"]);
  files["tokenizer/tokenizer_config.json"] = JSON.stringify({ ...tokenizer, model_max_length: 77 });
  for (const [folder, stem] of [
    ["text_encoder", "model"],
    ["unet", "diffusion_pytorch_model"],
    ["vae", "diffusion_pytorch_model"],
  ]) {
    addModel(files, folder, stem, models[`sd15/${folder}`]);
  }
  return files;
}

/** Stable Diffusion XL's UNet alone: 5.1 GB. */
export function stableDiffusionXL() {
  const files = {};
  addModel(files, "unet", "diffusion_pytorch_model", compressed("sdxl.json.gz")["sdxl/unet"]);
  return files;
}

function addModel(files, folder, stem, { className, config, shapes }) {
  files[`${folder}/config.json`] = JSON.stringify({ _class_name: className, ...config });
  files[`${folder}/${stem}.fp16.safetensors`] = randomWeights(shapes);
}
