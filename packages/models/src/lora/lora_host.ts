import type { GraphBuilder } from "../graph/builder.ts";
import type { Weights } from "../weights.ts";

/** What adapters have to know of their model. */
export interface LoraHost {
  readonly className: string;
  readonly config: object;
  readonly weights: () => Weights;
  /** Emits the model's graphs at a small size. @param prepare is given each builder before */
  readonly tryOut: (prepare: (g: GraphBuilder) => void) => void;
  /** Runs a task when the calls so far have ended. */
  readonly afterCalls: (task: () => void) => void;
}
