/**
 * Learned words: tokens, text embeddings and latents on WASM, elementwise against Diffusers:
 * tests/fixtures/pipelines/make_textual_inversion.py.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CLIPTextModel,
  CLIPTokenizer,
  Generator,
  IntegrityError,
  ModelNotFoundError,
  StableDiffusionImg2ImgPipeline,
  StableDiffusionPipeline,
  StableDiffusionXLPipeline,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixtureGzip, fixturePath, fixtureTensors } from "../support/fixtures.ts";
import { checkpoint } from "../support/onnx_exports.ts";
import { fileOf, partsOf, sourceOf, takeStep, type WordStep } from "./runners/textual_inversion.ts";

interface Encoder {
  length: number;
  vocab_size: number;
  rows: number;
  added: Record<string, [string, boolean]>;
  converted: string[];
  tokens: string[][];
  ids: number[][];
}

interface Step extends WordStep {
  encoders?: Encoder[];
  call?: Record<string, unknown> & { prompt: string | string[] };
}

type Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline;

const { texts, cases } = JSON.parse(fixtureGzip("pipelines/textual_inversion.json.gz")) as {
  texts: string[];
  cases: { name: string; checkpoint: string; steps: Step[] }[];
};
const expected = fixtureTensors("pipelines/textual_inversion.safetensors");
const seeded = (): Generator => new Generator().manual_seed(0);
/** Rounding differs between engines, and grows over the steps. The issue allows 1e-3. */
const tolerance = 1e-4;

/** The tensors of a source. */
const tensorsOf = (name: string): Record<string, Tensor> => sourceOf(name, expected);

const pipelines: Record<string, Pipeline> = {};
beforeAll(async () => {
  const load = { device: "wasm" } as const;
  pipelines["sd1-tiny"] = await StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), load);
  pipelines["sdxl-tiny"] = await StableDiffusionXLPipeline.from_pretrained(fixturePath("pipelines/sdxl-tiny"), load);
});
beforeEach(async () => {
  // Diffusers warns of long prompts as well.
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  for (const pipeline of Object.values(pipelines)) await pipeline.unload_textual_inversion();
});
afterAll(async () => {
  for (const pipeline of Object.values(pipelines)) await pipeline.dispose();
});

async function checkEncoder(pipeline: Pipeline, which: number, encoder: Encoder, name: string): Promise<void> {
  const { tokenizer, text_encoder } = partsOf(pipeline, which);
  expect(tokenizer.length).toBe(encoder.length);
  // After unloading, Python's config still counts the tokens that are gone.
  expect(text_encoder.config.vocab_size).toBe(encoder.rows);
  const added = [...tokenizer.added_tokens_decoder].map(([id, { content, special }]) => [id, [content, special]]);
  expect(added).toEqual(Object.entries(encoder.added).map(([id, token]) => [Number(id), token]));
  expect(pipeline.maybe_convert_prompt(texts, tokenizer)).toEqual(encoder.converted);
  expect(texts.map((text) => tokenizer.tokenize(text))).toEqual(encoder.tokens);
  const { input_ids } = tokenizer(encoder.converted, { padding: "max_length", truncation: true });
  expect(Array.from(input_ids.data, Number)).toEqual(encoder.ids.flat());
  const output = await text_encoder(input_ids);
  // The embeddings are sums of two numbers.
  const embedded = output.hidden_states[0]!.slice([0, texts.length], [0, 8]);
  expect(embedded.data).toEqual(expected[`${name}/embedded`]!.data);
  const pooled = which === 1 ? output.pooler_output : (output as unknown as { text_embeds: Tensor }).text_embeds;
  expectClose(pooled.data, expected[`${name}/pooled`]!.data as Float32Array, tolerance, name);
}

describe("as in Diffusers", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s", async (name, { checkpoint, steps }) => {
    const pipeline = pipelines[checkpoint]!;
    for (const [i, step] of steps.entries()) {
      if (step.encoders !== undefined) {
        for (const [j, encoder] of step.encoders.entries()) {
          await checkEncoder(pipeline, j + 1, encoder, `${name}/${i}/${j + 1}`);
        }
      } else if (step.call !== undefined) {
        const { prompt, ...options } = step.call;
        const run = pipeline as StableDiffusionPipeline;
        const { images } = await run(prompt, { ...options, generator: seeded(), output_type: "latent" });
        expectClose(images.data, expected[`${name}/${i}/latent`]!.data as Float32Array, tolerance, `${name}/${i}`);
      } else {
        await takeStep(pipeline, step, expected);
      }
    }
  });
});

describe("XL at once", () => {
  const xl = (): StableDiffusionXLPipeline => pipelines["sdxl-tiny"] as StableDiffusionXLPipeline;

  test.each([
    ["XL, one word", "xl", "tok"],
    ["XL, several words", "xl", ["<s0>", "<s1>"]],
    ["XL, one vector", "xl one", "<row>"],
  ])("%s", async (name, source, token) => {
    await xl().load_textual_inversion(fileOf(tensorsOf(source)), { token });
    const { steps } = cases.find((one) => one.name === name)!;
    for (const [j, encoder] of steps[2]!.encoders!.entries()) {
      await checkEncoder(xl(), j + 1, encoder, `${name}/2/${j + 1}`);
    }
    const [word] = [token].flat() as [string];
    await xl().unload_textual_inversion(word);
    expect([xl().tokenizer, xl().tokenizer_2].map((one) => one.convert_tokens_to_ids(word))).toEqual([573, 573]);
  });

  test("one of the two, where an encoder is named", async () => {
    const { tokenizer_2: tokenizer, text_encoder_2: text_encoder } = xl();
    await xl().load_textual_inversion(tensorsOf("xl"), { token: "tok", tokenizer, text_encoder });
    expect([xl().tokenizer.length, xl().tokenizer_2.length]).toEqual([574, 576]);
    const ids = tokenizer("tok", { add_special_tokens: false }).input_ids;
    const vector = (await text_encoder(ids)).hidden_states[0]!;
    await xl().unload_textual_inversion(["tok", "tok_1"], tokenizer, text_encoder);
    const { clip_g } = tensorsOf("xl");
    await xl().load_textual_inversion(clip_g!, { token: ["tok", "other"], tokenizer, text_encoder });
    expect((await text_encoder(ids)).hidden_states[0]!.data).toEqual(vector.data);
  });

  test("beside a file for the first encoder", async () => {
    const sources = [fileOf(tensorsOf("xl first")), fileOf(tensorsOf("xl"))];
    await xl().load_textual_inversion(sources, { token: ["<first>", "tok"] });
    const added = [xl().tokenizer, xl().tokenizer_2].map((one) => [...one.added_tokens_encoder.keys()].slice(-3));
    expect(added[0]).toEqual(["<first>", "tok", "tok_1"]);
    expect(added[1]!.slice(1)).toEqual(["tok", "tok_1"]);
    expect(xl().tokenizer_2.length).toBe(576);
  });
});

describe("the pipeline as a whole", () => {
  const sd = (): StableDiffusionPipeline => pipelines["sd1-tiny"] as StableDiffusionPipeline;
  const call = { num_inference_steps: 1, output_type: "latent" } as const;

  test("is saved with the words, and loaded again", async () => {
    const folder = mkdtempSync(join(tmpdir(), "words-"));
    try {
      await sd().load_textual_inversion([tensorsOf("many"), tensorsOf("half")]);
      // One that stands before another is gone: rows and vectors move up.
      await sd().unload_textual_inversion("sks_1");
      await sd().save_pretrained(folder);
      expect(JSON.parse(readFileSync(join(folder, "text_encoder/config.json"), "utf8")).vocab_size).toBe(577);
      const loaded = await StableDiffusionPipeline.from_pretrained(folder, { device: "wasm" });
      const prompt = "sks <half> sks_2";
      const one = (await sd()(prompt, { ...call, generator: seeded() })).images;
      const other = (await loaded(prompt, { ...call, generator: seeded() })).images;
      // The file's tensors are float16, and so are the vectors that stand there now.
      expectClose(other.data, one.data, 1e-2, "saved");
      const ids = loaded.tokenizer("<half>", { add_special_tokens: false }).input_ids;
      const [state, same] = [await loaded.text_encoder(ids), await sd().text_encoder(ids)];
      expect(state.hidden_states[0]!.data).toEqual(same.hidden_states[0]!.data);
      await loaded.dispose();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("shares them with what is made of it", async () => {
    const img2img = await StableDiffusionImg2ImgPipeline.from_pipe(sd());
    await img2img.load_textual_inversion(tensorsOf("many"));
    expect(sd().maybe_convert_prompt("a sks", sd().tokenizer)).toBe("a sks sks_1 sks_2");
  });

  test("offloaded and moved, and with prompts of both kinds", async () => {
    const plain = (await sd()("a cat", { ...call, generator: seeded() })).images;
    await sd().load_textual_inversion(tensorsOf("cat"));
    const learned = (await sd()("a <cat-toy>", { ...call, generator: seeded() })).images;
    expect(learned.data).not.toEqual(plain.data);
    await sd().text_encoder.offload();
    expect((await sd()("a <cat-toy>", { ...call, generator: seeded() })).images.data).toEqual(learned.data);
    // A prompt without any is as it was.
    expect((await sd()("a cat", { ...call, generator: seeded() })).images.data).toEqual(plain.data);
  });

  test("of an upper-case word prompts reach one vector: Diffusers says nothing, this does", async () => {
    const warn = vi.spyOn(console, "warn");
    await sd().load_textual_inversion(tensorsOf("upper"));
    expect(warn).toHaveBeenCalledWith(expect.stringMatching(/Of EasyBad prompts reach the first vector only/));
    warn.mockClear();
    await sd().load_textual_inversion(tensorsOf("upper"), { token: "easybad_" });
    expect(warn).not.toHaveBeenCalled();
  });

  test("a `$` in a word is a `$`", async () => {
    await sd().load_textual_inversion(tensorsOf("many"), { token: "$&" });
    expect(sd().maybe_convert_prompt(["a $& b", "$"], sd().tokenizer)).toEqual(["a $& $&_1 $&_2 b", "$"]);
  });
});

describe("what is refused by name", () => {
  const sd = (): StableDiffusionPipeline => pipelines["sd1-tiny"] as StableDiffusionPipeline;
  const row = (...dims: number[]): Tensor => Tensor.zeros(dims);
  type Refusal = [what: string, load: () => Promise<void>, error: unknown, message: RegExp];
  const load = (...args: Parameters<StableDiffusionPipeline["load_textual_inversion"]>): (() => Promise<void>) => {
    return () => sd().load_textual_inversion(...args);
  };

  test.each<Refusal>([
    ["a tensor without a token", load(row(16)), ValueError, /without a token: pass \{ token \}/],
    ["a token of the vocabulary", load(row(16), { token: "a</w>" }), ValueError, /a<\/w> is in the tokenizer's vocab/],
    ["a token twice", load([row(16), row(16)], { token: ["x", "x"] }), ValueError, /token x is there twice: x, x/],
    ["a name twice", load([{ "<x>": row(16) }, { "<x>": row(16) }]), ValueError, /The token <x> is there twice/],
    [
      "a name within another's",
      load([{ "<x>": row(2, 16) }, { "<x>_1": row(16) }]),
      ValueError,
      /The token <x>_1 is there twice/,
    ],
    ["an empty token", load(row(16), { token: "" }), ValueError, /A token is "", expected a text/],
    ["too few tokens", load([row(16), row(16)], { token: "x" }), ValueError, /2 textual inversions, but 1 tokens/],
    [
      "too many tokens",
      load(row(2, 16), { token: ["x", "y", "z"] }),
      ValueError,
      /3 tokens for 2 vectors: pass as many/,
    ],
    [
      "several tokens for a file",
      load({ "<x>": row(2, 16) }, { token: ["x", "y"] }),
      ValueError,
      /one textual inversion, <x>/,
    ],
    ["no source", load([]), ValueError, /list of textual inversions is empty/],
    ["another width", load({ "<x>": row(2, 8) }), ValueError, /<x> has vectors of the shape \[2, 8\], but \[16\] or/],
    ["three dims", load({ "<x>": row(1, 2, 16) }), ValueError, /shape \[1, 2, 16\]/],
    ["no vector", load({ "<x>": row(0, 16) }), ValueError, /shape \[0, 16\]/],
    [
      "a model's tensors",
      load({ a: row(16), b: row(16) }),
      ValueError,
      /holds a, b, but one tensor, or clip_l and clip_g/,
    ],
    [
      "a file of a model",
      load(fileOf({ a: row(16), b: row(16) })),
      ValueError,
      /learned_embeds.safetensors holds a, b/,
    ],
    [
      "XL's in another pipeline",
      load({ clip_l: row(16), clip_g: row(16) }, { token: "x" }),
      ValueError,
      /holds clip_l, clip_g/,
    ],
    ["an empty file", load(new File([], "x.safetensors")), IntegrityError, /found 0 bytes/],
    ["a pickle", load("a/b/learned_embeds.bin"), UnsupportedModelError, /learned_embeds.bin is a pickle/],
    ["A1111's pickle", load(new File([], "x.pt")), UnsupportedModelError, /x.pt is a pickle.*\['string_to_param'\]/],
    ["an unknown option", load(row(16), { tokens: "x" } as object), TypeError, /unknown option `tokens`/],
    ["another folder", load(fixturePath("pipelines/sd1-tiny")), ModelNotFoundError, /no learned_embeds.safetensors/],
  ])("%s", async (_, refused, error, message) => {
    const vocab_size = sd().text_encoder.config.vocab_size;
    const loading = refused();
    await expect(loading).rejects.toThrow(error as ErrorConstructor);
    await expect(loading).rejects.toThrow(message);
    expect([sd().tokenizer.length, sd().text_encoder.config.vocab_size]).toEqual([574, vocab_size]);
  });

  test("a token that is there", async () => {
    await sd().load_textual_inversion(tensorsOf("many"));
    await expect(sd().load_textual_inversion(tensorsOf("many"))).rejects.toThrow(/The token sks is in the tokenizer's/);
    await sd().unload_textual_inversion("sks");
    // Its other vectors are still there.
    await expect(sd().load_textual_inversion(tensorsOf("many"))).rejects.toThrow(
      /vocabulary has sks_1, sks_2, as if sks/,
    );
  });

  test("tokens that are not there, or not to be taken away", async () => {
    await sd().load_textual_inversion(tensorsOf("cat"));
    const message = /No tokens to remove found: <\|endoftext\|> are none of those added: <cat-toy>/;
    await expect(sd().unload_textual_inversion("<|endoftext|>")).rejects.toThrow(message);
    await sd().unload_textual_inversion([]);
    expect(sd().tokenizer.length).toBe(574);
  });

  test("a pipeline without its text encoder, and an encoder behind its tokenizer", async () => {
    const bare = await StableDiffusionPipeline.from_pipe(sd(), { text_encoder: null });
    await expect(bare.load_textual_inversion(row(16), { token: "x" })).rejects.toThrow(/needs a text_encoder/);
    await expect(bare.unload_textual_inversion()).rejects.toThrow(/needs a text_encoder/);
    const tokenizer = await CLIPTokenizer.from_pretrained(fixturePath("pipelines/sd1-tiny/tokenizer"));
    tokenizer.add_tokens("<unknown>");
    const loading = sd().load_textual_inversion(row(16), { token: "<x>", tokenizer });
    await expect(loading).rejects.toThrow(/tokenizer has 575 tokens, but the text encoder embeddings of 574 only/);
  });

  test("an ONNX export", async () => {
    const pipeline = await StableDiffusionPipeline.from_pretrained(checkpoint("optimum"), { device: "wasm" });
    const loading = pipeline.load_textual_inversion(row(16), { token: "<x>" });
    await expect(loading).rejects.toThrow(UnsupportedModelError);
    await expect(loading).rejects.toThrow(/text_encoder is an ORTTextEncoder, whose graph is fixed/);
    await pipeline.dispose();
  });

  test("a model that was made from a config", async () => {
    const text_encoder = new CLIPTextModel({ ...sd().text_encoder.config });
    await sd().load_textual_inversion(row(16), { token: "<x>", text_encoder });
    expect(text_encoder.config.vocab_size).toBe(575);
    await sd().unload_textual_inversion("<x>", null, text_encoder);
    expect(text_encoder.config.vocab_size).toBe(574);
  });
});
