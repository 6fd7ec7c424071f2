import type { GraphBuilder, Value } from "../graph/builder.ts";
import { activation } from "../layers/activations.ts";
import { resizeBilinear } from "../layers/bilinear.ts";
import { conv2d } from "../layers/conv.ts";
import { add, type FeatureMap, fromTokens, type Tokens } from "../layers/layout.ts";
import { linear, tokensLinear } from "../layers/linear.ts";
import type { DPTConfig, DPTLayout } from "./dpt_config.ts";
import type { DPTState } from "./dpt_vit.ts";

/**
 * The fused map that the head takes. Those after it are not computed.
 *
 * @param states one for each of `neck_hidden_sizes`
 * @see transformers `DPTNeck`
 */
export function dptNeck(
  g: GraphBuilder,
  states: readonly DPTState[],
  config: Readonly<DPTConfig>,
  layout: DPTLayout,
): FeatureMap {
  const last = states.length - 1;
  let fused: FeatureMap | undefined;
  for (let layer = 0; layer <= layout.fused; layer++) {
    // From the last state to the first.
    const i = last - layer;
    const state = states[i]!;
    const map = "length" in state ? reassemble(g, state, i, config) : state;
    const feature = conv2d(g, map, `neck.convs.${i}`, config.fusion_hidden_size, { bias: false });
    fused = fuse(g, fused, feature, `neck.fusion_stage.layers.${layer}`, config);
  }
  return fused!;
}

/** A layer's tokens as a feature map of their own size. @see transformers `DPTReassembleStage` */
function reassemble(g: GraphBuilder, x: Tokens, i: number, config: Readonly<DPTConfig>): FeatureMap {
  const at = "neck.reassemble_stage";
  const { batch, channels } = x;
  const length = x.length - 1;
  const side = Math.sqrt(length);
  const [token, patches] = g.ops(
    "Split",
    [g.reshape(x.value, [batch, x.length, channels]), g.integers([1, length])],
    [
      [batch, 1, channels],
      [batch, length, channels],
    ],
    { axis: 1 },
  ) as [Value, Value];
  let value = patches;
  if (config.readout_type === "add") value = g.op("Add", [patches, token], patches.dims);
  if (config.readout_type === "project") {
    const readout = g.op("Expand", [token, g.integers(patches.dims)], patches.dims);
    const both = g.op("Concat", [patches, readout], [batch, length, 2 * channels], { axis: 2 });
    const rows = g.reshape(both, [batch * length, 2 * channels]);
    value = activation(g, linear(g, rows, `${at}.readout_projects.${i}.0`, channels), config.hidden_act);
  }
  const tokens = { batch, length, channels, value: g.reshape(value, [batch * length, channels]) };
  const out = config.neck_hidden_sizes[i]!;
  const factor = config.reassemble_factors[i]!;
  // A 1x1 convolution.
  const projected = tokensLinear(g, tokens, `${at}.layers.${i}.projection`, out);
  if (factor > 1) return enlarge(g, projected, side, `${at}.layers.${i}.resize`, factor);
  const map = fromTokens(g, projected, side, side);
  if (factor === 1) return map;
  return conv2d(g, map, `${at}.layers.${i}.resize`, out, { stride: Math.trunc(1 / factor) });
}

/**
 * A transposed convolution whose stride is its kernel: each pixel becomes a square of its own, by one linear layer.
 *
 * @see torch `nn.ConvTranspose2d`
 */
function enlarge(g: GraphBuilder, x: Tokens, side: number, name: string, factor: number): FeatureMap {
  const { batch, channels } = x;
  const square = factor * factor;
  // [in, out, row, column] to [row, column, out, in].
  const weight = g.derived(
    `${name}.weight`,
    [channels, channels, factor, factor],
    "rows",
    [square * channels, channels],
    (values) =>
      values.map((_, i) => {
        const [input, out, place] = [i % channels, Math.floor(i / channels) % channels, Math.floor(i / channels ** 2)];
        return values[(input * channels + out) * square + place]!;
      }),
  );
  const bias = g.derived(`${name}.bias`, [channels], "repeated", [square * channels], (values) =>
    Float32Array.from({ length: square * channels }, (_, i) => values[i % channels]!),
  );
  const squares = g.op("Gemm", [x.value, weight, bias], [batch * side * side, square * channels], { transB: 1 });
  const rows = g.reshape(squares, [batch * side, side, factor, factor * channels]);
  const dims = [batch * side, factor, side, factor * channels];
  const turned = g.op("Transpose", [rows], dims, { perm: [0, 2, 1, 3] });
  const length = side * side * square;
  const tokens = { batch, length, channels, value: g.reshape(turned, [batch * length, channels]) };
  return fromTokens(g, tokens, side * factor, side * factor);
}

/** @see transformers `DPTFeatureFusionLayer` */
function fuse(
  g: GraphBuilder,
  x: FeatureMap | undefined,
  feature: FeatureMap,
  name: string,
  config: Readonly<DPTConfig>,
): FeatureMap {
  let hidden = feature;
  if (x !== undefined) {
    const fitting = resizeBilinear(g, feature, x, false);
    hidden = add(g, x, residualUnit(g, fitting, `${name}.residual_layer1`, config));
  }
  hidden = residualUnit(g, hidden, `${name}.residual_layer2`, config);
  // A 1x1 convolution and an interpolation, whose weights sum to 1, may change places: a quarter of the pixels.
  hidden = conv2d(g, hidden, `${name}.projection`, hidden.channels, { kernel: 1 });
  return double(g, hidden);
}

function double(g: GraphBuilder, x: FeatureMap): FeatureMap {
  return resizeBilinear(g, x, { height: x.height * 2, width: x.width * 2 }, true);
}

/** @see transformers `DPTPreActResidualLayer` */
function residualUnit(g: GraphBuilder, x: FeatureMap, name: string, config: Readonly<DPTConfig>): FeatureMap {
  const first = residualConv(g, relu(g, x), name, 1, config);
  return add(g, residualConv(g, relu(g, first), name, 2, config), x);
}

/** A convolution and its batch norm, which with the statistics of the file is part of its weights. */
function residualConv(
  g: GraphBuilder,
  x: FeatureMap,
  name: string,
  n: number,
  config: Readonly<DPTConfig>,
): FeatureMap {
  const { channels } = x;
  const hasNorm = config.use_batch_norm_in_fusion_residual === true;
  const hasBias = config.use_bias_in_fusion_residual ?? !hasNorm;
  const conv = `${name}.convolution${n}`;
  if (!hasNorm) return conv2d(g, x, conv, channels, { bias: hasBias });
  const read = (part: string): Float32Array => g.read(`${name}.batch_norm${n}.${part}`, [channels]);
  const [gamma, beta, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(read) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const bias = hasBias ? g.read(`${conv}.bias`, [channels]) : new Float32Array(channels);
  const scale = gamma.map((value, i) => value / Math.sqrt(variance[i]! + 1e-5));
  const shift = beta.map((value, i) => value + (bias[i]! - mean[i]!) * scale[i]!);
  const shape = [channels, channels, 3, 3];
  const weight = g.derived(`${conv}.weight`, shape, "batch_norm", shape, (values) =>
    values.map((value, i) => value * scale[Math.floor(i / (channels * 9))]!),
  );
  return conv2d(g, x, conv, channels, { derived: { weight, bias: g.constant(shift, [channels]) } });
}

function relu(g: GraphBuilder, x: FeatureMap): FeatureMap {
  return { ...x, value: g.op("Relu", [x.value], x.value.dims) };
}

/** The depth of each pixel: `[batch, height, width]`. @see transformers `DPTDepthEstimationHead` */
export function dptHead(g: GraphBuilder, x: FeatureMap, config: Readonly<DPTConfig>): Value {
  const features = config.fusion_hidden_size;
  let hidden = x;
  if (config.add_projection) hidden = relu(g, conv2d(g, hidden, "head.projection", features));
  hidden = double(g, conv2d(g, hidden, "head.head.0", Math.floor(features / 2)));
  hidden = relu(g, conv2d(g, hidden, "head.head.2", 32));
  hidden = relu(g, conv2d(g, hidden, "head.head.4", 1, { kernel: 1 }));
  return g.reshape(hidden.value, [hidden.batch, hidden.height, hidden.width]);
}
