import { Tensor } from "@diffusers-web/core";
import { weightTypeBytes } from "../safetensors.ts";
import { convertWeights } from "../weight_conversion.ts";
import { cast, type LazyTensor } from "../weight_transforms.ts";

/** What a token stands for: a row of the table in the file, or a vector that was learned for it. */
type Embedding = number | Float32Array;

/**
 * What the tokens of a text encoder stand for, once there are other ones than in its file. The table stays as it is in the
 * file, and on the device: the vectors of learned tokens are fed beside it.
 */
export class TokenEmbeddings {
  /** Tokens up to here stand for the table's row of the same number. */
  private readonly kept: number;
  private readonly others: readonly Embedding[];

  private constructor(kept: number, others: readonly Embedding[]) {
    this.kept = kept;
    this.others = others;
  }

  /** Those of the file. @param rows the table's */
  static of(rows: number): TokenEmbeddings {
    return new TokenEmbeddings(rows, []);
  }

  get length(): number {
    return this.kept + this.others.length;
  }

  /** Whether there are vectors to be fed. */
  get hasLearned(): boolean {
    return this.others.some((embedding) => typeof embedding !== "number");
  }

  private at(token: number): Embedding | undefined {
    return token < this.kept ? token : this.others[token - this.kept];
  }

  /**
   * As many as there are tokens, with new ones among them.
   *
   * @param learned by token
   * @returns undefined when there are tokens that stand for nothing
   * @see transformers `PreTrainedModel.resize_token_embeddings`
   */
  resized(count: number, learned: ReadonlyMap<number, Float32Array>): TokenEmbeddings | undefined {
    const kept = Math.min(this.kept, count, ...learned.keys());
    const others = Array.from({ length: count - kept }, (_, i) => learned.get(kept + i) ?? this.at(kept + i));
    return others.includes(undefined) ? undefined : new TokenEmbeddings(kept, others as Embedding[]);
  }

  /** Without some tokens: those behind them move up. @param from no token before this one is taken away */
  without(tokens: ReadonlySet<number>, from: number): TokenEmbeddings {
    const kept = Math.min(this.kept, from);
    const rest = Array.from({ length: Math.max(0, this.length - kept) }, (_, i) => kept + i);
    return new TokenEmbeddings(
      kept,
      rest.filter((token) => token < from || !tokens.has(token)).map((token) => this.at(token)!),
    );
  }

  /**
   * The inputs of a graph for tokens: the rows of the table, and where a token has a vector of its own that vector, and a 0 for
   * the row.
   *
   * @param input_ids `[batch, length]`
   * @param width the vectors'
   */
  feeds(input_ids: Tensor<"int64">, width: number): Record<string, Tensor | Tensor<"int64">> {
    if (this.others.length === 0) return { input_ids };
    const rows = new BigInt64Array(input_ids.size);
    const known = new Float32Array(input_ids.size).fill(1);
    const learned = new Float32Array(input_ids.size * width);
    input_ids.data.forEach((id, i) => {
      const embedding = this.at(Number(id))!;
      if (typeof embedding === "number") rows[i] = BigInt(embedding);
      else {
        known[i] = 0;
        learned.set(embedding, i * width);
      }
    });
    const input = { input_ids: new Tensor("int64", rows, input_ids.dims) };
    if (!this.hasLearned) return input;
    return {
      ...input,
      known_tokens: new Tensor("float32", known, [...input_ids.dims, 1]),
      learned_embeddings: new Tensor("float32", learned, [...input_ids.dims, width]),
    };
  }

  /** The table with all of them, put together as it is read: for saving. @param table the file's */
  table(table: LazyTensor, name: string): LazyTensor {
    const width = table.shape[1]!;
    const isHalf = table.dtype === "F16";
    const numbers = isHalf ? table : cast("float32")(table, name);
    const rowBytes = width * weightTypeBytes[numbers.dtype];
    return {
      ...numbers,
      shape: [this.length, width],
      read: () => {
        const bytes = numbers.read();
        const result = new Uint8Array(this.length * rowBytes);
        result.set(bytes.subarray(0, this.kept * rowBytes));
        this.others.forEach((embedding, i) => {
          const row =
            typeof embedding === "number"
              ? bytes.subarray(embedding * rowBytes, (embedding + 1) * rowBytes)
              : convertWeights(new Uint8Array(embedding.slice().buffer), "F32", isHalf ? "float16" : "float32")!;
          result.set(row, (this.kept + i) * rowBytes);
        });
        return result;
      },
    };
  }
}
