/** Tokens that are added to each layout of tokenizer files: tests/fixtures/pipelines/make_textual_inversion.py. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { CLIPTokenizer } from "../../packages/pipelines/src/tokenization_clip.ts";
import { fixturePath, fixtureText } from "../support/fixtures.ts";

const written = JSON.parse(fixtureText("pipelines/tokenizer_additions.json")) as {
  additions: string[];
  texts: string[];
  layouts: {
    layout: string;
    counts: number[];
    length: number;
    ids: number[][];
    tokens: string[][];
    decoded: string[];
    added: Record<string, [string, boolean, boolean]>;
    id_of: Record<string, number>;
  }[];
};
const folder = mkdtempSync(join(tmpdir(), "tokens-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.each(written.layouts)("added to $layout, and saved", async (one) => {
  const check = (tokenizer: CLIPTokenizer): void => {
    expect(tokenizer.length).toBe(one.length);
    const added = [...tokenizer.added_tokens_decoder].map(([id, { content, special }]) => [id, content, special]);
    expect(added).toEqual(Object.entries(one.added).map(([id, [content, special]]) => [Number(id), content, special]));
    written.texts.forEach((text, i) => {
      const { input_ids } = tokenizer(text);
      expect(Array.from(input_ids.data, Number), text).toEqual(one.ids[i]);
      expect(tokenizer.tokenize(text), text).toEqual(one.tokens[i]);
      expect(tokenizer.decode(input_ids.data), text).toBe(one.decoded[i]);
    });
    const tokens = Object.keys(one.id_of);
    expect(tokens.map((token) => tokenizer.convert_tokens_to_ids(token))).toEqual(Object.values(one.id_of));
  };
  const tokenizer = await CLIPTokenizer.from_pretrained(fixturePath(`pipelines/tokenizers/${one.layout}`));
  const length = tokenizer.length;
  expect([...written.additions, "sks"].map((token) => tokenizer.add_tokens(token))).toEqual(one.counts);
  check(tokenizer);
  await tokenizer.save_pretrained(join(folder, one.layout));
  const saved = await CLIPTokenizer.from_pretrained(join(folder, one.layout));
  check(saved);
  // Taken away again, and saved without them.
  saved.remove_tokens(new Set(written.additions));
  expect(saved.length).toBe(length);
  await saved.save_pretrained(join(folder, `${one.layout} again`));
  expect((await CLIPTokenizer.from_pretrained(join(folder, `${one.layout} again`))).length).toBe(length);
});

test("several at once, and none", async () => {
  const tokenizer = await CLIPTokenizer.from_pretrained(fixturePath("pipelines/tokenizers/sd15"));
  expect(tokenizer.add_tokens(["<a>", "<b>", "<a>", ""])).toBe(2);
  expect(tokenizer.add_tokens([])).toBe(0);
  expect(tokenizer.get_vocab().get("<b>")).toBe(tokenizer.length - 1);
});
