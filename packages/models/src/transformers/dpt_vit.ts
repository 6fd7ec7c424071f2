import { ValueError } from "@diffusers-web/core";
import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { scaledDotProductAttention } from "../layers/attention.ts";
import { resizeBilinearRows } from "../layers/bilinear.ts";
import { conv2d } from "../layers/conv.ts";
import { add, type FeatureMap, type Tokens, toTokens } from "../layers/layout.ts";
import { tokensLinear } from "../layers/linear.ts";
import { layerNorm } from "../layers/norm.ts";
import type { DPTConfig, DPTLayout } from "./dpt_config.ts";
import { bitBackbone } from "./modeling_bit.ts";

/** What the neck takes: the backbone's feature maps, then the outputs of layers. */
export type DPTState = FeatureMap | Tokens;

/** @see transformers `DPTModel` */
export function dptModel(
  g: GraphBuilder,
  pixels: FeatureMap,
  config: Readonly<DPTConfig>,
  layout: DPTLayout,
): DPTState[] {
  const { layers, backbone, patchSize } = layout;
  const at = "dpt.embeddings";
  const states: DPTState[] = [];
  let patches: FeatureMap;
  if (backbone === undefined) {
    const kernel = { kernel: patchSize, stride: patchSize, padding: 0 };
    patches = conv2d(g, pixels, `${at}.patch_embeddings.projection`, config.hidden_size, kernel);
  } else {
    const [first, second, last] = bitBackbone(g, pixels, `${at}.backbone.bit`, backbone) as [
      FeatureMap,
      FeatureMap,
      FeatureMap,
    ];
    states.push(first, second);
    patches = conv2d(g, last, `${at}.projection`, config.hidden_size, { kernel: 1 });
  }
  let hidden = embeddings(g, patches, pixels, config, layout);
  // The layers behind the last one that is used, and the norm after them, are not computed.
  for (let i = 0; i <= (layers.at(-1) ?? -1); i++) {
    hidden = encoderLayer(g, hidden, `dpt.encoder.layer.${i}`, config);
    if (layers.includes(i)) states.push(hidden);
  }
  return states;
}

/** The class token before the patches, and the position of each. @see transformers `DPTViTEmbeddings` */
function embeddings(
  g: GraphBuilder,
  map: FeatureMap,
  pixels: FeatureMap,
  { hidden_size: size }: Readonly<DPTConfig>,
  { patchSize, side }: DPTLayout,
): Tokens {
  const patches = toTokens(g, map);
  const grid = { height: Math.floor(pixels.height / patchSize), width: Math.floor(pixels.width / patchSize) };
  if (grid.height * grid.width !== patches.length) {
    throw new ValueError(
      `DPTForDepthEstimation has \`patch_size\`: ${patchSize}, so that a picture of ${pixels.height}x${pixels.width} has ` +
        `${grid.height}x${grid.width} patches, but its backbone makes ${map.height}x${map.width} of it.`,
      {
        className: "DPTForDepthEstimation",
        field: "patch_size",
        found: `${patchSize}, for ${grid.height}x${grid.width} patches`,
        expected: `one for ${map.height}x${map.width} patches`,
      },
    );
  }
  const { batch } = patches;
  const length = patches.length + 1;
  const dims = [batch, length, size];
  let token = g.weight("dpt.embeddings.cls_token", [1, 1, size]);
  if (batch > 1) token = g.op("Expand", [token, g.integers([batch, 1, size])], [batch, 1, size]);
  const sequence = g.reshape(patches.value, [batch, patches.length, size]);
  const joined = g.op("Concat", [token, sequence], dims, { axis: 1 });
  const sum = g.op("Add", [joined, positions(g, size, side, grid)], dims);
  return { batch, length, channels: size, value: g.reshape(sum, [batch * length, size]) };
}

/** The positions of a picture's patches, mixed of those of the config's square: `[1, patches + 1, size]`. */
function positions(g: GraphBuilder, size: number, side: number, to: { height: number; width: number }): Value {
  const name = "dpt.embeddings.position_embeddings";
  const shape = [1, side * side + 1, size];
  if (to.height === side && to.width === side) return g.weight(name, shape);
  const length = to.height * to.width + 1;
  return g.derived(name, shape, `${to.height}x${to.width}`, [1, length, size], (values) => {
    const result = new Float32Array(length * size);
    result.set(values.subarray(0, size));
    result.set(resizeBilinearRows(values.subarray(size), { height: side, width: side }, to, size), size);
    return result;
  });
}

/** @see transformers `DPTViTLayer` */
function encoderLayer(g: GraphBuilder, x: Tokens, name: string, config: Readonly<DPTConfig>): Tokens {
  const { hidden_size: size, intermediate_size, num_attention_heads: heads, layer_norm_eps: eps, hidden_act } = config;
  const normed = layerNorm(g, x, `${name}.layernorm_before`, eps);
  const [q, k, v] = ["query", "key", "value"].map((which) =>
    tokensLinear(g, normed, `${name}.attention.attention.${which}`, size, { bias: config.qkv_bias === true }),
  ) as [Tokens, Tokens, Tokens];
  const mixed = scaledDotProductAttention(g, q, k, v, { heads });
  const hidden = add(g, tokensLinear(g, mixed, `${name}.attention.output.dense`, size), x);

  const wide = tokensLinear(
    g,
    layerNorm(g, hidden, `${name}.layernorm_after`, eps),
    `${name}.intermediate.dense`,
    intermediate_size,
  );
  const active = { ...wide, value: activation(g, wide.value, hidden_act) };
  return add(g, tokensLinear(g, active, `${name}.output.dense`, size), hidden);
}
