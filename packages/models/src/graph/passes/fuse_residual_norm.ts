import type { FusedKernels, GraphNode } from "../types.ts";

/**
 * Makes one node of a residual addition and the normalisation that reads its sum: SkipGroupNorm or
 * SkipLayerNormalization, which also give the sum to whoever else needs it.
 */
export function fuseResidualNorm(
  nodes: readonly GraphNode[],
  dimsOf: (name: string) => readonly number[] | undefined,
  fused: FusedKernels,
): readonly GraphNode[] {
  const additions = new Map<string, number>();
  const readers = new Map<string, number>();
  nodes.forEach((node, i) => {
    for (const input of node.inputs) readers.set(input, (readers.get(input) ?? 0) + 1);
    if (node.type === "Add" && sameDims(dimsOf(node.inputs[0]!), dimsOf(node.inputs[1]!))) {
      additions.set(node.outputs[0]!, i);
    }
  });

  const result: (GraphNode | undefined)[] = [...nodes];
  nodes.forEach((norm, i) => {
    const isGroupNorm = norm.type === "GroupNorm" && fused.groupNorm;
    const isLayerNorm = norm.type === "LayerNormalization" && fused.skipLayerNorm;
    if (!isGroupNorm && !isLayerNorm) return;
    const sum = norm.inputs[0]!;
    const at = additions.get(sum);
    if (at === undefined) return;
    // An addition goes into one normalisation only: others read the sum that it gives.
    additions.delete(sum);

    const [a, b] = nodes[at]!.inputs as [string, string];
    const [, gamma, beta] = norm.inputs as [string, string, string];
    const normed = norm.outputs[0]!;
    const needsSum = readers.get(sum)! > 1;
    const { axis, ...attributes } = norm.attributes;
    // In the place of the addition, so that it stands before every reader of the sum.
    result[at] = isGroupNorm
      ? {
          type: "SkipGroupNorm",
          domain: "com.microsoft",
          inputs: [a, gamma, beta, b],
          outputs: needsSum ? [normed, sum] : [normed],
          attributes,
        }
      : {
          type: "SkipLayerNormalization",
          domain: "com.microsoft",
          inputs: [a, b, gamma, beta],
          outputs: needsSum ? [normed, "", "", sum] : [normed],
          attributes,
        };
    result[i] = undefined;
  });
  return result.filter((node) => node !== undefined);
}

function sameDims(a: readonly number[] | undefined, b: readonly number[] | undefined): boolean {
  return a !== undefined && b !== undefined && a.length === b.length && a.every((dim, i) => dim === b[i]);
}
