import { Tensor, ValueError } from "@diffusers-web/core";
import { type EncodedText, modelMaxLength, type PromptJob, type PromptSyntax, warnOfCut } from "./prompt_syntax.ts";
import type { CLIPTokenizer, TokenizerOutput } from "./tokenization_clip.ts";

/** The tokens of a text, without those of its begin and end, and the weight of each. */
interface WeightedTokens {
  ids: bigint[];
  weights: number[];
}

/**
 * Encodes texts of any length, with weights: in chunks of as many tokens as the model reads, each with its own begin and end, laid
 * one after the other. All jobs come out alike in length. A weighted text is scaled so that its mean stays what it was without
 * weights; pooled is what the first chunk gives. Without brackets, a text that fits into one chunk is encoded as ever.
 *
 * @param least how many tokens the embeddings have that the caller brings along; the texts come out no shorter
 * @throws ValueError for a weight that is no number.
 * @see Diffusers' community pipeline `lpw_stable_diffusion`, whose embeddings these are where the padding token is the end token
 */
export async function encodeChunks(
  jobs: readonly PromptJob[],
  { long_prompt = false, prompt_weighting }: PromptSyntax,
  least: number,
): Promise<EncodedText[]> {
  const parsed = jobs.map(({ tokenizer, texts }) =>
    texts.map((text) =>
      weightedTokens(tokenizer, prompt_weighting === "a1111" ? parse_prompt_attention(text) : [[text, 1]]),
    ),
  );
  const needed = jobs.flatMap(({ tokenizer }, i) => {
    const length = modelMaxLength(tokenizer);
    return [least / length, ...parsed[i]!.map(({ ids }) => ids.length / (length - 2))];
  });
  const chunks = long_prompt ? Math.max(1, Math.ceil(Math.max(...needed))) : 1;
  const encoded: EncodedText[] = [];
  for (const [i, job] of jobs.entries()) {
    if (!long_prompt) cutToOneChunk(job.tokenizer, parsed[i]!);
    encoded.push(await encodeJob(job, parsed[i]!, chunks));
  }
  return encoded;
}

async function encodeJob(
  { tokenizer, encode }: PromptJob,
  texts: readonly WeightedTokens[],
  chunks: number,
): Promise<EncodedText> {
  const parts: EncodedText[] = [];
  for (let chunk = 0; chunk < chunks; chunk++) parts.push(await encode(chunkInput(tokenizer, texts, chunk)));
  const embeds = Tensor.cat(
    parts.map((part) => part.embeds),
    1,
  );
  return { embeds: weighted(embeds, texts, modelMaxLength(tokenizer)), pooled: parts[0]!.pooled };
}

/** One chunk of each text as the tokenizer itself would write it: its begin, the tokens, its end, and padding. */
function chunkInput(tokenizer: CLIPTokenizer, texts: readonly WeightedTokens[], chunk: number): TokenizerOutput {
  const length = modelMaxLength(tokenizer);
  const room = length - 2;
  const input_ids = new BigInt64Array(texts.length * length).fill(BigInt(tokenizer.pad_token_id));
  const attention_mask = new BigInt64Array(texts.length * length);
  for (const [i, { ids }] of texts.entries()) {
    const part = ids.slice(chunk * room, (chunk + 1) * room);
    input_ids.set([BigInt(tokenizer.bos_token_id), ...part, BigInt(tokenizer.eos_token_id)], i * length);
    attention_mask.fill(1n, i * length, i * length + part.length + 2);
  }
  const dims = [texts.length, length];
  return {
    input_ids: new Tensor("int64", input_ids, dims),
    attention_mask: new Tensor("int64", attention_mask, dims),
  };
}

/** @param embeds `[batch, chunks * length, width]` */
function weighted(embeds: Tensor, texts: readonly WeightedTokens[], length: number): Tensor {
  if (texts.every(({ weights }) => weights.every((weight) => weight === 1))) return embeds;
  const [, tokens, width] = embeds.dims as [number, number, number];
  const data = embeds.data.slice();
  for (const [i, { weights }] of texts.entries()) {
    const own = data.subarray(i * tokens * width, (i + 1) * tokens * width);
    const before = mean(own);
    for (const [k, weight] of weights.entries()) {
      const at = Math.floor(k / (length - 2)) * length + 1 + (k % (length - 2));
      for (let c = at * width; c < (at + 1) * width; c++) own[c]! *= Math.fround(weight);
    }
    const ratio = before / mean(own);
    for (let c = 0; c < own.length; c++) own[c]! *= ratio;
  }
  return new Tensor("float32", data, embeds.dims);
}

function mean(values: Float32Array): number {
  return Math.fround(values.reduce((sum, value) => sum + value, 0) / values.length);
}

function weightedTokens(tokenizer: CLIPTokenizer, pieces: readonly WeightedPiece[]): WeightedTokens {
  const tokens: WeightedTokens = { ids: [], weights: [] };
  for (const [text, weight] of pieces) {
    const { input_ids } = tokenizer([text], { add_special_tokens: false });
    tokens.ids.push(...input_ids.data);
    tokens.weights.push(...new Array<number>(input_ids.size).fill(weight));
  }
  return tokens;
}

function cutToOneChunk(tokenizer: CLIPTokenizer, texts: readonly WeightedTokens[]): void {
  const length = modelMaxLength(tokenizer);
  const cut = texts.map((text) => {
    text.weights.length = Math.min(text.weights.length, length - 2);
    return tokenizer.decode(text.ids.splice(length - 2), { skip_special_tokens: true });
  });
  warnOfCut(length, cut);
}

/** A piece of a prompt, and how much it counts. */
export type WeightedPiece = readonly [text: string, weight: number];

/**
 * Reads a prompt in the syntax of AUTOMATIC1111's web UI: `(text)` counts 1.1 times as much, `[text]` 1.1 times less, `(text:1.3)` as
 * said; brackets may be nested, and those that are not closed end with the text. `\(`, `\)`, `\[`, `\]` and `\\` are the
 * characters themselves.
 *
 * @returns the pieces in order, neighbours of the same weight in one; at least one
 * @throws ValueError for a weight that is no number, as in `(text:1.2.3)`.
 * @see Diffusers' community pipeline `lpw_stable_diffusion`, `parse_prompt_attention`
 */
export function parse_prompt_attention(prompt: string): readonly WeightedPiece[] {
  const pieces: { text: string; weight: number }[] = [];
  // Where each bracket that is open begins, as an index of pieces.
  const open: Record<"(" | "[", number[]> = { "(": [], "[": [] };
  const close = (begin: number, factor: number): void => {
    for (const piece of pieces.slice(begin)) piece.weight *= factor;
  };
  let at = 0;
  while (at < prompt.length) {
    const rest = prompt.slice(at);
    const character = rest[0]!;
    const explicit = /^:([+-]?[.\d]+)\)/.exec(rest);
    if (character === "\\") {
      // A backslash before anything else is left out.
      const escaped = /^\\([()[\]\\])/.exec(rest)?.[1] ?? "";
      pieces.push({ text: escaped, weight: 1 });
      at += 1 + escaped.length;
    } else if (character === "(" || character === "[") {
      open[character].push(pieces.length);
      at += 1;
    } else if (explicit !== null && open["("].length > 0) {
      close(open["("].pop()!, weightOf(explicit[1]!, prompt, at));
      at += explicit[0].length;
    } else if (character === ")" && open["("].length > 0) {
      close(open["("].pop()!, 1.1);
      at += 1;
    } else if (character === "]" && open["["].length > 0) {
      close(open["["].pop()!, 1 / 1.1);
      at += 1;
    } else {
      const [text] = explicit ?? /^[^\\()[\]:]+/.exec(rest) ?? [character];
      pieces.push({ text, weight: 1 });
      at += text.length;
    }
  }
  for (const begin of open["("]) close(begin, 1.1);
  for (const begin of open["["]) close(begin, 1 / 1.1);

  const merged: [string, number][] = [];
  for (const { text, weight } of pieces) {
    const last = merged.at(-1);
    if (last?.[1] === weight) last[0] += text;
    else merged.push([text, weight]);
  }
  return merged.length === 0 ? [["", 1]] : merged;
}

function weightOf(text: string, prompt: string, at: number): number {
  const weight = Number(text);
  if (!Number.isNaN(weight)) return weight;
  const place = prompt.slice(Math.max(0, at - 20), at + text.length + 2);
  throw new ValueError(
    `The weight ${JSON.stringify(text)} in ${JSON.stringify(place)} is no number: write (text:1.3), or \\( for a bracket that is text.`,
    { field: "prompt", found: text, expected: "a number" },
  );
}
