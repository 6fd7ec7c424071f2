/** Every layout of tokenizer files against transformers: tests/fixtures/pipelines/make_tokenizers.py. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { IntegrityError, ModelNotFoundError, ValueError } from "@diffusers-web/core";
import { afterAll, describe, expect, test } from "vitest";
import { CLIPTokenizer, type TokenizerOptions } from "../../packages/pipelines/src/tokenization_clip.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";

interface Layout {
  layout: string;
  model_max_length: number | null;
  vocab_size: number;
  bos_id: number;
  eos_id: number;
  pad_id: number;
  unk_id: number;
  ids: number[][];
  decoded: string[];
  decoded_skip: string[];
  calls: { kwargs: TokenizerOptions; input_ids: number[][]; attention_mask: number[][] }[];
}

const { texts, cases } = JSON.parse(fixtureText("pipelines/tokenizers.json")) as { texts: string[]; cases: Layout[] };
const emoji = fileURLToPath(new URL("../../demo/public/models/emoji-diffusion/tokenizer", import.meta.url));
const folderOf = (layout: string) => (layout === "emoji" ? emoji : fixturePath(`pipelines/tokenizers/${layout}`));
const folder = mkdtempSync(join(tmpdir(), "tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.each(cases)("$layout", (expected) => {
  test("files", async () => {
    const tokenizer = await CLIPTokenizer.from_pretrained(folderOf(expected.layout));
    expect(tokenizer.model_max_length).toBe(expected.model_max_length);
    expect(tokenizer.length).toBe(expected.vocab_size);
    const { bos_token_id, eos_token_id, pad_token_id, unk_token_id } = tokenizer;
    const ids = [expected.bos_id, expected.eos_id, expected.pad_id, expected.unk_id];
    expect([bos_token_id, eos_token_id, pad_token_id, unk_token_id]).toEqual(ids);
  });

  test("texts", async () => {
    const tokenizer = await CLIPTokenizer.from_pretrained(folderOf(expected.layout));
    texts.forEach((text, i) => {
      const { input_ids } = tokenizer(text);
      expect(Array.from(input_ids.data, Number), JSON.stringify(text)).toEqual(expected.ids[i]);
      expect(tokenizer.decode(input_ids.data), JSON.stringify(text)).toBe(expected.decoded[i]);
      const shown = tokenizer.decode(input_ids.data, { skip_special_tokens: true });
      expect(shown, JSON.stringify(text)).toBe(expected.decoded_skip[i]);
    });
  });

  test("batches", async () => {
    const tokenizer = await CLIPTokenizer.from_pretrained(folderOf(expected.layout));
    const batch = [texts[2]!, texts[3]!, texts[0]!, texts[20]!];
    for (const { kwargs, input_ids, attention_mask } of expected.calls) {
      const what = JSON.stringify(kwargs);
      if (new Set(input_ids.map((row) => row.length)).size > 1) {
        // Python gives lists of unequal lengths, of which it can make no tensor either.
        expect(() => tokenizer(batch, kwargs), what).toThrow(ValueError);
        continue;
      }
      const output = tokenizer(batch, kwargs);
      expect(output.input_ids.dims).toEqual([input_ids.length, input_ids[0]!.length]);
      expect(Array.from(output.input_ids.data, Number), what).toEqual(input_ids.flat());
      expect(Array.from(output.attention_mask.data, Number), what).toEqual(attention_mask.flat());
    }
  });
});

describe("what is wrong is named", () => {
  test("no model_max_length", async () => {
    const tokenizer = await CLIPTokenizer.from_pretrained(folderOf("bare"));
    expect(() => tokenizer("a cat", { padding: "max_length" })).toThrow(/model_max_length/);
    tokenizer.model_max_length = 8;
    expect(tokenizer("a cat", { padding: "max_length" }).input_ids.dims).toEqual([1, 8]);
  });

  test("options and texts", async () => {
    const tokenizer = await CLIPTokenizer.from_pretrained(folderOf("sd15"));
    expect(() => tokenizer("a", { maxlength: 3 } as TokenizerOptions)).toThrow(/Did you mean `max_length`/);
    expect(() => tokenizer("a", { max_length: 1, truncation: true })).toThrow(ValueError);
    expect(() => tokenizer([1] as unknown as string[])).toThrow(ValueError);
  });

  const broken: [string, string, string | null, typeof IntegrityError | typeof ModelNotFoundError, RegExp][] = [
    ["no vocabulary", "vocab.json", null, ModelNotFoundError, /neither tokenizer.json nor vocab.json/],
    ["no merges", "merges.txt", null, ModelNotFoundError, /merges.txt/],
    ["a truncated vocabulary", "vocab.json", '{"a": 1, "b"', IntegrityError, /vocab.json .*not valid JSON/],
    ["a list", "vocab.json", "[]", IntegrityError, /vocab.json/],
    ["ids that are none", "vocab.json", '{"a": "b"}', IntegrityError, /vocab.json/],
    ["merges of three", "merges.txt", "#version: 0.2\na b c\n", IntegrityError, /merges.txt/],
    ["tokenizer.json without a model", "tokenizer.json", "{}", IntegrityError, /tokenizer.json/],
  ];
  test.each(broken)("%s", async (name, file, text, error, message) => {
    const copy = join(folder, name);
    cpSync(folderOf("sd15"), copy, { recursive: true });
    if (text === null) rmSync(join(copy, file));
    else writeFileSync(join(copy, file), text);
    const loaded = CLIPTokenizer.from_pretrained(copy);
    await expect(loaded).rejects.toThrow(error);
    await expect(loaded).rejects.toThrow(message);
  });
});
