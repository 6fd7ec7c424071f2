import { UnsupportedModelError } from "@diffusers-web/core";
import { float, type GraphBuilder, microsoft, type Value } from "../graph/builder.ts";

type Lower = (g: GraphBuilder, x: Value) => Value;

const unary =
  (type: string): Lower =>
  (g, x) =>
    g.op(type, [x], x.dims);

/** `x * sigmoid(alpha * x)`: SiLU for 1, CLIP's quick GELU for 1.702. */
function sigmoidLinear(alpha: number): Lower {
  return (g, x) => {
    if (g.target.fused.quickGelu) return g.op("QuickGelu", [x], x.dims, { alpha: float(alpha) }, microsoft);
    const scaled = alpha === 1 ? x : g.op("Mul", [x, g.constant([alpha], [])], x.dims);
    return g.op("Mul", [x, g.op("Sigmoid", [scaled], x.dims)], x.dims);
  };
}

const gelu =
  (approximate: "none" | "tanh"): Lower =>
  (g, x) =>
    g.op("Gelu", [x], x.dims, { approximate });

/** `x * tanh(log(1 + exp(x)))`, with a logarithm that does not overflow. */
const mish: Lower = (g, x) => {
  const decayed = g.op("Exp", [g.op("Neg", [g.op("Abs", [x], x.dims)], x.dims)], x.dims);
  const log = g.op("Log", [g.op("Add", [decayed, g.constant([1], [])], x.dims)], x.dims);
  const softplus = g.op("Add", [g.op("Relu", [x], x.dims), log], x.dims);
  return g.op("Mul", [x, g.op("Tanh", [softplus], x.dims)], x.dims);
};

const clip =
  (min: number, max: number, lower: Lower): Lower =>
  (g, x) =>
    g.op("Clip", [lower(g, x), g.constant([min], []), g.constant([max], [])], x.dims);

/** `max(x, 0) ** 2` */
const relu2: Lower = (g, x) => {
  const positive = g.op("Relu", [x], x.dims);
  return g.op("Mul", [positive, positive], x.dims);
};

/** `x * min(max(x / 6 + 1 / 2, 0), 1)` */
const hardSwish: Lower = (g, x) => {
  const gate = g.op("HardSigmoid", [x], x.dims, { alpha: float(1 / 6), beta: float(0.5) });
  return g.op("Mul", [x, gate], x.dims);
};

/** The share of a normal distribution, with the mean and deviation of Mega's paper, that is below x. */
const laplace: Lower = (g, x) => {
  const centred = g.op("Sub", [x, g.constant([Math.SQRT1_2], [])], x.dims);
  const scaled = g.op("Div", [centred, g.constant([0.282095 * Math.SQRT2], [])], x.dims);
  const shifted = g.op("Add", [g.op("Erf", [scaled], x.dims), g.constant([1], [])], x.dims);
  return g.op("Mul", [shifted, g.constant([0.5], [])], x.dims);
};

/** Diffusers' `act_fn` names. */
const diffusersActivations: Record<string, Lower> = {
  silu: sigmoidLinear(1),
  swish: sigmoidLinear(1),
  gelu: gelu("none"),
  relu: unary("Relu"),
  mish,
};

/**
 * What `hidden_act` may name in a transformers config: all of its `ACT2FN` but three, of which two have weights (prelu,
 * xielu) and one is a router's (sqrtsoftplus).
 */
const transformersActivations: Record<string, Lower> = {
  ...diffusersActivations,
  quick_gelu: sigmoidLinear(1.702),
  gelu_python: gelu("none"),
  gelu_10: clip(-10, 10, gelu("none")),
  gelu_accurate: gelu("tanh"),
  gelu_fast: gelu("tanh"),
  gelu_new: gelu("tanh"),
  gelu_python_tanh: gelu("tanh"),
  gelu_pytorch_tanh: gelu("tanh"),
  hardswish: hardSwish,
  laplace,
  leaky_relu: (g, x) => g.op("LeakyRelu", [x], x.dims, { alpha: float(0.01) }),
  linear: (_, x) => x,
  relu2,
  relu6: clip(0, 6, unary("Relu")),
  sigmoid: unary("Sigmoid"),
  tanh: unary("Tanh"),
};

/** The activations of a library's configs, by name. */
const families = { diffusers: diffusersActivations, transformers: transformersActivations };

/**
 * Checks the name of an activation in a config.
 *
 * @throws UnsupportedModelError naming the class and the field.
 */
export function checkActivation(
  name: string,
  className: string,
  field: string,
  family: "diffusers" | "transformers" = "diffusers",
): void {
  // Diffusers takes names in any case, transformers does not.
  const key = family === "diffusers" ? String(name).toLowerCase() : name;
  if (typeof name === "string" && Object.hasOwn(families[family], key)) return;
  const known = Object.keys(families[family]).join(", ");
  throw new UnsupportedModelError(`${className} has \`${field}\`: "${name}", which is not built. Known: ${known}.`, {
    className,
    field,
    found: String(name),
    expected: known,
  });
}

/** An activation by its name in a config, which {@link checkActivation} has passed. */
export function activation(g: GraphBuilder, x: Value, name: string): Value {
  return transformersActivations[name.toLowerCase()]!(g, x);
}

/** Whether the name means SiLU, which GroupNorm's kernel applies itself. */
export function isSilu(name: string): boolean {
  return ["silu", "swish"].includes(name.toLowerCase());
}
