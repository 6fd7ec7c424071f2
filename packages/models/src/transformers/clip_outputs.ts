import type { Tensor } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Tokens } from "../layers/layout.ts";

/** Makes a sequence an output `[batch, length, channels]` of the graph. */
export function tokensOutput(g: GraphBuilder, name: string, { value, batch, length, channels }: Tokens): void {
  g.output(name, g.reshape(value, [batch, length, channels]));
}

/** Makes what enters the first layer and the output of each layer outputs: see {@link hiddenStates}. */
export function statesOutput(g: GraphBuilder, states: readonly Tokens[]): void {
  // As transformers has it, a model without layers has no states.
  if (states.length === 1) return;
  for (const [i, state] of states.entries()) tokensOutput(g, `hidden_states_${i}`, state);
}

/** The outputs of {@link statesOutput}, in order: none when they were not asked for. */
export function hiddenStates(outputs: Readonly<Record<string, Tensor>>): readonly Tensor[] {
  const count = Object.keys(outputs).filter((name) => name.startsWith("hidden_states_")).length;
  return Array.from({ length: count }, (_, i) => outputs[`hidden_states_${i}`]!);
}
