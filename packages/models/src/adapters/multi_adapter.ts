import { type Tensor, ValueError } from "@diffusers-web/core";
import { MultiModel } from "../multi_model.ts";
import { T2IAdapter } from "./adapter.ts";

export interface MultiAdapter {
  /** {@link MultiAdapter.forward} */
  (xs: readonly Tensor[], adapter_weights?: readonly number[]): Promise<Tensor[]>;
}

const name = "MultiAdapter";

/**
 * Several adapters, whose features are summed with a weight each.
 *
 * @see Diffusers `MultiAdapter`
 */
export class MultiAdapter extends MultiModel<T2IAdapter> {
  static override readonly name: string = "MultiAdapter";
  static readonly member_class: typeof T2IAdapter = T2IAdapter;

  /** @throws ValueError unless there are two adapters or more, which shrink pictures alike. */
  constructor(adapters: readonly T2IAdapter[]) {
    super(adapters);
    if (adapters.length < 2) {
      throw new ValueError(`${name} takes two adapters or more, but got ${adapters.length}: use T2IAdapter for one.`, {
        className: name,
        field: "adapters",
        found: String(adapters.length),
        expected: "2 or more",
      });
    }
    for (const field of ["total_downscale_factor", "downscale_factor"] as const) {
      const factors = adapters.map((adapter) => adapter[field]);
      if (factors.every((factor) => factor === factors[0])) continue;
      throw new ValueError(`${name} takes adapters with the same \`${field}\`, but got ${factors.join(", ")}.`, {
        className: name,
        field,
        found: factors.join(", "),
        expected: "one value",
      });
    }
  }

  get adapters(): readonly T2IAdapter[] {
    return this.members;
  }

  get num_adapter(): number {
    return this.members.length;
  }

  /** See {@link T2IAdapter.total_downscale_factor}. */
  get total_downscale_factor(): number {
    return this.members[0]!.total_downscale_factor;
  }

  /** See {@link T2IAdapter.downscale_factor}. */
  get downscale_factor(): number {
    return this.members[0]!.downscale_factor;
  }

  /**
   * @param xs pictures for each adapter, see {@link T2IAdapter.forward}
   * @param adapter_weights what each adapter's features are multiplied with. Default: equal ones, with the sum 1
   * @returns a feature map for each block, the largest first
   * @throws ValueError for another number of pictures or weights, or features of different sizes.
   */
  override async forward(xs: readonly Tensor[], adapter_weights?: readonly number[]): Promise<Tensor[]> {
    const count = this.members.length;
    const weights = adapter_weights ?? this.members.map(() => 1 / count);
    this.checkEach("xs", xs);
    this.checkEach("adapter_weights", weights);
    const features: Tensor[][] = [];
    for (const [i, adapter] of this.members.entries()) {
      const weight = Math.fround(weights[i]!);
      features.push((await adapter(xs[i]!)).map((feature) => feature.mul(weight)));
    }
    return this.sums(features, "features");
  }
}
