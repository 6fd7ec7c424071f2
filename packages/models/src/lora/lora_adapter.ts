import type { LazyTensor } from "../weight_transforms.ts";
import type { Weights } from "../weights.ts";

/** The low-rank change of one layer: `up * down * (alpha / rank)`, where the rank is `down`'s first dim. */
export interface LoraLayer {
  /** The name in the file of the tensor that the layer's input goes through: `[rank, in]`, of a convolution `[rank, in, h, w]`. */
  readonly down: string;
  /** Of the one that follows: `[out, rank]`, of a convolution `[out, rank, 1, 1]`. */
  readonly up: string;
  /** null: the rank, so that nothing is scaled. */
  readonly alpha: number | null;
  /** Of what `up` adds, `[out]`, which is scaled as well. */
  readonly bias: string | null;
}

/** An adapter's file, and what it changes of one model. */
export interface LoraSource {
  readonly weights: Weights;
  /** By the layer's name in the model. */
  readonly layers: ReadonlyMap<string, LoraLayer>;
  /** Called when the model needs the file no more. */
  close(): void;
}

/** A LoRA as one model has it. */
export class LoraAdapter {
  /** The tensors as PEFT names them: `<module>.lora_A.weight`, `<module>.lora_B.weight`, `<module>.lora_B.bias`. */
  readonly weights: Weights;

  constructor(
    private readonly source: LoraSource,
    /** Stands before the tensors' names in a graph, where other adapters may have the same ones. */
    readonly prefix: string,
  ) {
    this.weights = source.weights.view((tensors) => {
      const renamed = new Map<string, LazyTensor>();
      for (const [module, { down, up, bias }] of source.layers) {
        renamed.set(`${module}.lora_A.weight`, tensors.get(down)!);
        renamed.set(`${module}.lora_B.weight`, tensors.get(up)!);
        if (bias !== null) renamed.set(`${module}.lora_B.bias`, tensors.get(bias)!);
      }
      return renamed;
    });
  }

  /** What it changes, by layer. */
  get modules(): LoraSource["layers"] {
    return this.source.layers;
  }

  rank(module: string): number {
    return this.weights.shape(`${module}.lora_A.weight`)?.[0] ?? 0;
  }

  /** alpha / rank: what the change of a layer is scaled with before the adapter's weight. */
  factor(module: string): number {
    const { alpha } = this.modules.get(module)!;
    return alpha === null ? 1 : alpha / this.rank(module);
  }

  /** What a tensor is called in the file. */
  nameInFile(name: string): string {
    const [, module, part] = /^(.*)\.lora_(A\.weight|B\.weight|B\.bias)$/.exec(name) ?? [];
    const layer = module === undefined ? undefined : this.modules.get(module);
    if (layer === undefined) return name;
    return { "A.weight": layer.down, "B.weight": layer.up, "B.bias": layer.bias ?? name }[part as "A.weight"];
  }

  close(): void {
    this.source.close();
  }
}
