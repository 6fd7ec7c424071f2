import { UnsupportedModelError, WeightsMismatchError } from "@diffusers-web/core";
import type { Weights } from "@diffusers-web/models";
import { type AlphaKey, readAlphas } from "./lora_alphas.ts";
import { diffusersName, isKohya, sgmToDiffusers } from "./lora_kohya_names.ts";

/** The low-rank change of one layer: `up * down * (alpha / rank)`, where the rank is `down`'s first dim. */
export interface LoraModule {
  /** The tensor in the file that the layer's input goes through, `[rank, in]` or, of a convolution, `[rank, in, h, w]`. */
  readonly down: string;
  /** The tensor that follows, `[out, rank]` or `[out, rank, 1, 1]`. */
  readonly up: string;
  /** null: the rank, so that nothing is scaled. */
  readonly alpha: number | null;
  /** What `up` adds, `[out]`, scaled as well. */
  readonly bias: string | null;
}

/**
 * What a file changes: by component (`unet`, `text_encoder`, `text_encoder_2`), by the layer's name in the model, e.g.
 * `down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`. Layers of text encoders are named without the `text_model.`
 * that the files of some of them have, e.g. `encoder.layers.0.self_attn.q_proj`.
 */
export type LoraState = ReadonlyMap<string, ReadonlyMap<string, LoraModule>>;

/** The components that a file may change. */
export type LoraComponent = "unet" | "text_encoder" | "text_encoder_2";

/** What a file may say of a layer. */
type Part = "down" | "up" | "bias";

/** A tensor's place. */
interface Place {
  readonly module: string;
  readonly part: Part;
}

/** Other changes of weights, by what only their tensors are called. */
const otherKinds: readonly (readonly [kind: string, telltale: RegExp])[] = [
  ["DoRA", /\.dora_scale$|\.lora_magnitude_vector(\.|$)/],
  ["LoKr", /\.lokr_/],
  ["LoHa", /\.hada_/],
  ["OFT", /\.oft_|\.boft_/],
  ["IA3", /\.on_input$|\.ia3_/],
  ["GLoRA", /\.[ab][12]\.weight$/],
  ["VeRA", /\.vera_|^vera_/],
  ["a LoRA in Tucker form", /\.lora_mid\.|\.lora_t[12](\.|$)/],
  ["a LoRA of embeddings", /\.lora_embedding_[AB](\.|$)/],
  ["weight differences as a whole", /\.diff(_b)?$/],
  ["changes of normalisation layers", /\.[wb]_norm$/],
  ["a Control LoRA", /^lora_controlnet$/],
  ["a LoRA that brings textual inversions along", /^bundle_emb\./],
  ["a LoRA for a transformer (FLUX, SD3 ...)", /^(lora_)?(transformer|te3)[._]|^(diffusion_model|text_encoder_3)\./],
];

/**
 * Finds out which layers a LoRA file changes, whichever program wrote it: PEFT, Diffusers (now and before), kohya's scripts (in
 * Diffusers' block numbering or that of the original code). Nothing is read but alphas: the tensors stay where they are.
 *
 * Takes what Diffusers takes, and what it leaves aside with a warning: names without `unet.`, with `base_model.model.` before
 * them, or with the adapter's name inside.
 *
 * @param layers_per_block the UNet's: what the original code's block numbers are counted by. Default 2
 * @throws UnsupportedModelError for DoRA, LoKr, LoHa and others, naming the kind and the first tensor of it.
 * @throws WeightsMismatchError naming the tensors that belong to no layer, or that lack the other half.
 * @throws ValueError for alphas both as tensors and in the metadata, IntegrityError for metadata that cannot be read.
 * @see Diffusers `StableDiffusionLoraLoaderMixin.lora_state_dict`, `convert_all_state_dict_to_peft`, `get_peft_kwargs`
 */
export function convertLora(weights: Weights, layers_per_block = 2): LoraState {
  const { file } = weights;
  const names = [...weights.names()];
  checkKind(file, names);

  const tensors = sgmToDiffusers(names, layers_per_block);
  const alphas = new Set([...tensors.values()].filter((name) => isKohya(name) && name.endsWith(".alpha")));
  const found = new Map<string, { component: LoraComponent; module: string; parts: Partial<Record<Part, string>> }>();
  const alphaKeys: AlphaKey[] = [];
  const unknown: string[] = [];
  for (const [name, tensor] of tensors) {
    if (alphas.has(tensor)) continue;
    const key = isKohya(name) ? diffusersName(name) : componentName(name);
    const place = key === undefined ? undefined : placeOf(key.component, key.name);
    if (key === undefined || place === undefined) {
      unknown.push(tensor);
      continue;
    }
    const { component } = key;
    const { module, part } = place;
    const id = `${component}.${module}`;
    const entry = found.get(id) ?? { component, module, parts: {} };
    found.set(id, entry);
    const other = entry.parts[part];
    if (other !== undefined) throw twice(file, other, tensor, id);
    entry.parts[part] = tensor;
    const alpha = tensor.replace(/\.lora_down\.weight$/, ".alpha");
    if (alphas.has(alpha)) alphaKeys.push({ ...key, tensor: alpha });
  }
  // Those of no layer.
  for (const { tensor } of alphaKeys) alphas.delete(tensor);
  unknown.push(...alphas);
  if (unknown.length > 0) throw strangers(file, unknown);
  if (found.size === 0) throw strangers(file, []);

  const state = new Map<LoraComponent, Map<string, LoraModule>>();
  const alphaOf = readAlphas(weights, alphaKeys);
  for (const { component, module, parts } of found.values()) {
    const { down, up, bias = null } = parts;
    if (down === undefined || up === undefined) throw half(file, parts, `${component}.${module}`);
    const modules = state.get(component) ?? new Map<string, LoraModule>();
    state.set(component, modules);
    modules.set(module, { down, up, alpha: alphaOf(component, module, down), bias });
  }
  return state;
}

/** Endings of a tensor's name behind the layer's, by what is said so. */
const endings: readonly (readonly [RegExp, (match: RegExpExecArray) => Part])[] = [
  // PEFT, and PEFT with the adapter's name
  [/\.lora_([AB])(?:\.[^.]+)?\.weight$/, ([, which]) => (which === "A" ? "down" : "up")],
  [/\.lora_B(?:\.[^.]+)?\.bias$/, () => "bias"],
  // Diffusers
  [/\.lora(?:_linear_layer)?\.(down|up)\.weight$/, ([, which]) => which as Part],
  // Diffusers, the first releases: the layer's name is part of it
  [/_lora\.(down|up)\.weight$/, ([, which]) => which as Part],
];

/** Whose tensor it is, and its name there. */
function componentName(name: string): { component: LoraComponent; name: string } {
  const bare = name.replace(/^base_model\.model\./, "");
  const [prefix, component] = (/^(unet|text_encoder|text_encoder_2)\./.exec(bare) ?? []) as [string?, LoraComponent?];
  if (prefix !== undefined && component !== undefined) return { component, name: bare.slice(prefix.length) };
  const isText = /^(text_model|text_projection|encoder\.layers)\./.test(bare);
  return { component: isText ? "text_encoder" : "unet", name: bare };
}

/** Where a tensor with a name of PEFT's or Diffusers' belongs; undefined for another name. */
function placeOf(component: LoraComponent, name: string): Place | undefined {
  const plain = name.replaceAll(".processor.", ".");
  for (const [ending, partOf] of endings) {
    const match = ending.exec(plain);
    if (match === null || match.index === 0) continue;
    const module = presentName(component, plain.slice(0, match.index), match[0].startsWith("_"));
    return { module, part: partOf(match) };
  }
  return undefined;
}

/** Layers of attention as text encoders call them, by Diffusers' name. */
const textAttention: Readonly<Record<string, string>> = {
  to_q: "q_proj",
  to_k: "k_proj",
  to_v: "v_proj",
  to_out: "out_proj",
};

/**
 * The layer's name in the model of today.
 *
 * @param isOld whether the name is from before `to_out` had an index, and layers of text encoders their own names
 */
function presentName(component: LoraComponent, module: string, isOld: boolean): string {
  const [, path = "", last = ""] = /^(.*\.)?([^.]+)$/.exec(module) ?? [];
  if (component === "unet") return isOld && last === "to_out" ? `${path}to_out.0` : module;
  const text = isOld ? path + (textAttention[last] ?? last) : module;
  return text.replace(/^text_model\./, "");
}

function checkKind(file: string, names: readonly string[]): void {
  for (const [kind, telltale] of otherKinds) {
    const tensor = names.find((name) => telltale.test(name));
    if (tensor === undefined) continue;
    throw new UnsupportedModelError(
      `${file} is ${kind} (it has the tensor ${tensor}), which is not built: only plain LoRA is.`,
      { file, tensors: [tensor], found: kind, expected: "LoRA" },
    );
  }
}

/** Tensors that are no LoRA's, or none at all. */
function strangers(file: string, tensors: readonly string[]): WeightsMismatchError {
  const [first = "no tensor"] = tensors;
  const more = tensors.length > 1 ? ` (and ${tensors.length - 1} more)` : "";
  const expected = "pairs such as `unet.*.lora_A.weight` and `unet.*.lora_B.weight`, or kohya's `lora_unet_*`";
  return new WeightsMismatchError(`${file} is no LoRA that is known: found ${first}${more}, expected ${expected}.`, {
    file,
    tensors,
    found: first,
    expected,
  });
}

function half(file: string, parts: Partial<Record<Part, string>>, module: string): WeightsMismatchError {
  const [tensor] = Object.values(parts) as [string];
  const missing = parts.down === undefined ? "down (lora_A, lora_down)" : "up (lora_B, lora_up)";
  return new WeightsMismatchError(
    `${file} has ${tensor}, but of ${module} no ${missing}: the file is not whole. Get it anew.`,
    { file, tensors: [tensor], found: "no such tensor", expected: missing },
  );
}

function twice(file: string, one: string, other: string, module: string): WeightsMismatchError {
  return new WeightsMismatchError(
    `${file} has both ${one} and ${other} for ${module}. It may hold several adapters: take a file of one.`,
    { file, tensors: [one, other], found: "two tensors", expected: `one for ${module}` },
  );
}
