/** Prompts with weights and of any length, elementwise against Python: tests/fixtures/pipelines/make_prompts.py. */
import {
  Generator,
  parse_prompt_attention,
  StableDiffusionPipeline,
  StableDiffusionXLPipeline,
  Tensor,
  ValueError,
} from "@diffusers-web/pipelines";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { expectClose } from "../support/allclose.ts";
import { fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";

interface Case {
  readonly name: string;
  readonly checkpoint: "sd1-tiny" | "sdxl-tiny";
  readonly options: { readonly prompt: string | string[]; readonly [option: string]: unknown };
}

const { parsed, cases } = JSON.parse(fixtureText("pipelines/prompts.json")) as {
  parsed: [string, [string, number][]][];
  cases: Case[];
};
const expected = fixtureTensors("pipelines/prompts.safetensors");
/** Rounding differs between engines; a text's mean is a small number, by which its weights are divided. */
const tolerance = 5e-5;

let sd: StableDiffusionPipeline;
let xl: StableDiffusionXLPipeline;
beforeAll(async () => {
  vi.spyOn(console, "warn").mockImplementation(() => undefined);
  sd = await StableDiffusionPipeline.from_pretrained(fixturePath("pipelines/sd1-tiny"), { device: "wasm" });
  xl = await StableDiffusionXLPipeline.from_pretrained(fixturePath("pipelines/sdxl-tiny"), { device: "wasm" });
});
afterAll(async () => {
  await sd.dispose();
  await xl.dispose();
});

test.each(parsed)("parses %j", (text, pieces) => {
  expect(parse_prompt_attention(text)).toEqual(pieces);
});

test("a weight that is no number is an error that shows the place", () => {
  expect(() => parse_prompt_attention("a house, (a cat:1.2.3) at night")).toThrow(ValueError);
  expect(() => parse_prompt_attention("a house, (a cat:1.2.3) at night")).toThrow(/a house, \(a cat:1\.2\.3\)/);
});

describe("embeddings", () => {
  test.each(cases.map((one) => [one.name, one] as const))("%s", async (name, { checkpoint, options }) => {
    const { prompt, ...rest } = options;
    const pipeline = checkpoint === "sd1-tiny" ? sd : xl;
    const embeds = await pipeline.encode_prompt(prompt, rest);
    for (const [key, value] of Object.entries(embeds)) {
      const { data, dims } = expected[`${name}/${key}`]!;
      expect((value as Tensor).dims, key).toEqual(dims);
      expectClose((value as Tensor).data, data as Float32Array, tolerance, key);
    }
    expect(Object.keys(embeds).every((key) => `${name}/${key}` in expected)).toBe(true);
  });

  test.each(["long with weights", "xl long"])("%s: the latents of a call", async (name) => {
    const { checkpoint, options } = cases.find((one) => one.name === name)!;
    const call = {
      ...options,
      num_inference_steps: 3,
      guidance_scale: 5,
      generator: new Generator().manual_seed(0),
      output_type: "latent" as const,
    };
    const { images } = checkpoint === "sd1-tiny" ? await sd(call) : await xl(call);
    expectClose(images.data, expected[`${name}/latent`]!.data as Float32Array, 5e-5);
  });
});

test("a text without brackets that fits is encoded as ever", async () => {
  const both = { negative_prompt: "ugly", long_prompt: true, prompt_weighting: "a1111" } as const;
  for (const pipeline of [sd, xl]) {
    const plain = await pipeline.encode_prompt("a cat at night", { negative_prompt: "ugly" });
    const read = await pipeline.encode_prompt("a cat at night", both);
    expect(read).toEqual(plain);
  }
});

test("what is cut is told, without its brackets", async () => {
  const warn = vi.mocked(console.warn);
  warn.mockClear();
  const prompt =
    "(a photo of a cat:1.2) in the house at night with a horse on mars, beautiful and [detailed], a red fox";
  await sd.encode_prompt(prompt, { prompt_weighting: "a1111", do_classifier_free_guidance: false });
  expect(warn.mock.calls.flat().join()).toMatch(/CLIP reads 20 tokens at most.*fox/);
  warn.mockClear();
  await sd.encode_prompt(prompt, { prompt_weighting: "a1111", long_prompt: true });
  expect(warn).not.toHaveBeenCalled();
});

describe("with embeddings of one of the two", () => {
  test("the negative prompt comes out as long", async () => {
    const { prompt_embeds } = await sd.encode_prompt(`${"a cat and ".repeat(12)}a dog`, { long_prompt: true });
    expect(prompt_embeds.dims[1]).toBe(80);
    const { negative_prompt_embeds } = await sd.encode_prompt(null, {
      prompt_embeds,
      negative_prompt: "ugly",
      long_prompt: true,
    });
    expect(negative_prompt_embeds!.dims).toEqual(prompt_embeds.dims);
  });

  test("a text that needs more is an error", async () => {
    const long = "a cat and ".repeat(12);
    const prompt_embeds = Tensor.zeros([1, 20, 16]);
    const call = sd.encode_prompt(null, { prompt_embeds, negative_prompt: long, long_prompt: true });
    await expect(call).rejects.toThrow(ValueError);
    await expect(call).rejects.toThrow(/negative prompt has 80 tokens, the prompt 20/);
  });
});

test.each([
  [{ prompt_weighting: "compel" }, /`prompt_weighting` is "compel", expected "a1111" or null/],
  [{ long_prompt: "yes" }, /`long_prompt` is "yes", expected true or false/],
])("%j is refused", async (options, message) => {
  const call = sd("a cat", { ...(options as object), num_inference_steps: 1 });
  await expect(call).rejects.toThrow(ValueError);
  await expect(call).rejects.toThrow(message);
});
