/**
 * LoRA files of each program: which layers they change, and how much, as Diffusers does:
 * tests/fixtures/pipelines/make_lora_formats.py.
 */
import { IntegrityError, Tensor, UnsupportedModelError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import { Weights } from "@diffusers-web/models";
import { describe, expect, test } from "vitest";
import { convertLora, type LoraState } from "../../packages/pipelines/src/loaders/lora_conversion_utils.ts";
import { fixtureGzip } from "../support/fixtures.ts";
import { memoryFile, safetensors } from "../support/safetensors.ts";

interface Entry {
  readonly shape: number[];
  readonly value?: number;
  readonly dtype?: string;
}

interface Layer {
  readonly down: string;
  readonly up: string;
  readonly bias: string | null;
  readonly rank: number;
  readonly scale: number;
}

interface Case {
  readonly name: string;
  readonly kind: "sd1" | "sdxl";
  readonly tensors: Record<string, Entry>;
  readonly metadata: object | null;
  readonly layers?: Record<string, Record<string, Layer>>;
  readonly error?: string;
}

const cases = JSON.parse(fixtureGzip("pipelines/lora_formats.json.gz")) as Case[];
const { layers, original, lost } = JSON.parse(fixtureGzip("pipelines/lora_names.json.gz")) as {
  layers: Record<string, string[]>;
  original: Record<string, string>;
  lost: string[];
};

/** A number in the bytes of a safetensors type. */
function numberBytes(value: number, dtype: string): [type: string, bytes: Uint8Array] {
  const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer);
  if (dtype === "int64") return ["I64", bytesOf(BigInt64Array.of(BigInt(value)))];
  if (dtype === "float16") return ["F16", bytesOf(new Tensor("float32", [value], [1]).to("float16").data)];
  const single = bytesOf(Float32Array.of(value));
  return dtype === "bfloat16" ? ["BF16", single.slice(2)] : ["F32", single];
}

function fileOf(tensors: Readonly<Record<string, Entry>>, metadata: object | string | null = null): Uint8Array {
  const described: Record<string, readonly [string, readonly number[], number]> = {};
  const data: number[] = [];
  for (const [name, { shape, value, dtype = "float32" }] of Object.entries(tensors)) {
    const size = shape.reduce((product, dim) => product * dim, 1);
    const [type, bytes] = numberBytes(value ?? 0, dtype);
    described[name] = [type, shape, size * bytes.length];
    for (let i = 0; i < size; i++) data.push(...bytes);
  }
  const text = typeof metadata === "string" ? metadata : JSON.stringify(metadata);
  return safetensors(described, { data, ...(metadata && { metadata: { lora_adapter_metadata: text } }) });
}

const open = (tensors: Readonly<Record<string, Entry>>, metadata: object | string | null = null): Weights =>
  new Weights([memoryFile(fileOf(tensors, metadata), "lora.safetensors")]);

/** A file of layers, each a `down` and an `up` of rank 2. */
function pairs(...names: readonly string[]): Record<string, Entry> {
  return Object.fromEntries(names.map((name) => [name, { shape: [2, 2] }]));
}

function plain(weights: Weights, state: LoraState): Record<string, Record<string, Layer>> {
  const result: Record<string, Record<string, Layer>> = {};
  for (const [component, modules] of state) {
    result[component] = {};
    for (const [layer, { down, up, bias, alpha }] of modules) {
      const rank = weights.shape(down)![0]!;
      // An alpha that stands for a square root is a digit off in the last place.
      const scale = Number(((alpha ?? rank) / rank).toPrecision(15));
      result[component][layer] = { down, up, bias, rank, scale };
    }
  }
  return result;
}

describe("as Diffusers", () => {
  const loaded = cases.filter((one) => one.layers !== undefined);
  test.each(loaded.map((one) => [one.name, one] as const))("%s", (_, one) => {
    const weights = open(one.tensors, one.metadata);
    // The tiny UNets have one layer a block.
    const found = plain(weights, convertLora(weights, 1));
    const rounded = JSON.stringify(one.layers, (key, value) =>
      key === "scale" ? Number(value.toPrecision(15)) : value,
    );
    expect(found).toEqual(JSON.parse(rounded));
  });

  test.each(cases.filter((one) => one.error !== undefined))("$name is refused", (one) => {
    expect(() => convertLora(open(one.tensors, one.metadata))).toThrow(WeightsMismatchError);
  });
});

describe("every layer of the real models", () => {
  const components = { "sd15 unet": "unet", "sdxl unet": "unet" } as Record<string, string>;
  const kohya = { unet: "lora_unet", text_encoder: "lora_te1", text_encoder_2: "lora_te2" } as Record<string, string>;

  test.each(Object.keys(layers))("of %s, as kohya and as PEFT name them", (which) => {
    const component = components[which] ?? which;
    const modules = layers[which]!;
    // transformers' class without a projection has lost the prefix that files have.
    const written = modules.map((layer) => (component === "text_encoder" ? `text_model.${layer}` : layer));
    const wanted = modules.map((layer) => layer.replace(/^text_model\./, "")).sort();
    for (const names of [
      written.flatMap((layer) =>
        ["down", "up"].map((x) => `${kohya[component]}_${layer.replaceAll(".", "_")}.lora_${x}.weight`),
      ),
      written.flatMap((layer) => ["A", "B"].map((x) => `${component}.${layer}.lora_${x}.weight`)),
    ]) {
      const state = convertLora(open(pairs(...names)));
      expect([...state.keys()]).toEqual([component]);
      expect([...state.get(component)!.keys()].sort()).toEqual(wanted);
    }
  });

  test("of SDXL's UNet, in the original code's numbers", () => {
    const files = Object.fromEntries(
      Object.entries(original).map(([layer, name]) => [`lora_unet_${name.replaceAll(".", "_")}`, layer]),
    );
    const names = Object.keys(files).flatMap((name) => [`${name}.lora_down.weight`, `${name}.lora_up.weight`]);
    const state = convertLora(open(pairs(...names)));
    const found = [...state.get("unet")!].map(([layer, { down }]) => [down.replace(".lora_down.weight", ""), layer]);
    expect(Object.fromEntries(found)).toEqual(files);
    expect(found.length).toBe(layers["sdxl unet"]!.length);
  });

  test("of SD 1.5's UNet, in the original code's numbers, which Diffusers maps for XL only", () => {
    const names = ["lora_unet_output_blocks_2_1_conv", "lora_unet_input_blocks_10_0_in_layers_2"];
    const files = names.flatMap((name) => [`${name}.lora_down.weight`, `${name}.lora_up.weight`]);
    const state = convertLora(open(pairs(...files)));
    const expected = ["up_blocks.0.upsamplers.0.conv", "down_blocks.3.resnets.0.conv1"];
    expect([...state.get("unet")!.keys()]).toEqual(expected);
  });

  test("Python loses two of them", () => {
    expect(lost).toEqual(["add_embedding.linear_1", "add_embedding.linear_2"]);
  });
});

describe("what is refused by name", () => {
  const down = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight";
  const up = down.replace("down.weight", "up.weight");
  const layer = "lora_unet_mid_block_attentions_0_proj_in";
  const kinds: [kind: string, tensor: string][] = [
    ["DoRA", `${layer}.dora_scale`],
    ["DoRA", "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector"],
    ["DoRA", "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.default.weight"],
    ["LoKr", `${layer}.lokr_w1`],
    ["LoKr", "unet.conv_in.lokr_w2_a"],
    ["LoHa", `${layer}.hada_w1_a`],
    ["OFT", `${layer}.oft_blocks`],
    ["OFT", "unet.conv_in.oft_R.weight"],
    ["IA3", `${layer}.on_input`],
    ["IA3", "unet.conv_in.ia3_l"],
    ["GLoRA", `${layer}.a1.weight`],
    ["a LoRA in Tucker form", `${layer}.lora_mid.weight`],
    ["weight differences as a whole", `${layer}.diff`],
    ["weight differences as a whole", `${layer}.diff_b`],
    ["changes of normalisation layers", `${layer}.w_norm`],
    ["a LoRA of embeddings", "base_model.model.text_model.embeddings.token_embedding.lora_embedding_A"],
    ["a Control LoRA", "lora_controlnet"],
    ["a LoRA that brings textual inversions along", "bundle_emb.cat.string_to_param.*"],
    ["a LoRA for a transformer", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
    ["a LoRA for a transformer", "lora_transformer_single_transformer_blocks_0_attn_to_q.lora_down.weight"],
    ["a LoRA for a transformer", "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"],
  ];
  test.each(kinds)("%s: %s", (kind, tensor) => {
    const refused = (): LoraState => convertLora(open(pairs(down, up, tensor)));
    expect(refused).toThrow(UnsupportedModelError);
    expect(refused).toThrow(new RegExp(`lora.safetensors is ${kind}.*the tensor ${tensor.replace(/[.*]/g, "\\$&")}`));
  });

  const strangers: [what: string, tensors: Record<string, Entry>, names: string[], message: RegExp][] = [
    [
      "a model's tensors",
      pairs("conv_in.weight", "conv_in.bias"),
      ["conv_in.weight", "conv_in.bias"],
      /conv_in.weight/,
    ],
    ["kohya's of no kind", pairs(down, up, `${layer}.x`), [`${layer}.x`], /found lora_unet_.*proj_in\.x, expected/],
    ["an alpha of no layer", pairs(down, up, "lora_unet_x.alpha"), ["lora_unet_x.alpha"], /lora_unet_x.alpha/],
    [
      "a block that the original code does not have",
      pairs("lora_unet_middle_block_3_proj_in.lora_down.weight"),
      ["lora_unet_middle_block_3_proj_in.lora_down.weight"],
      /middle_block_3/,
    ],
    ["a name that is an ending only", pairs("unet.lora_A.weight"), ["unet.lora_A.weight"], /unet.lora_A.weight/],
    ["no tensors", {}, [], /found no tensor/],
    ["no other half", pairs(down), [down], /of unet.mid_block.attentions.0.proj_in no up/],
    ["no first half", pairs(up), [up], /of unet.mid_block.attentions.0.proj_in no down/],
    [
      "two adapters in one file",
      pairs("unet.conv_in.lora_A.one.weight", "unet.conv_in.lora_A.two.weight"),
      ["unet.conv_in.lora_A.one.weight", "unet.conv_in.lora_A.two.weight"],
      /several adapters/,
    ],
    [
      "an alpha of several numbers",
      { ...pairs(down, up), [`${layer}.alpha`]: { shape: [2] } },
      [`${layer}.alpha`],
      /found \[2\], expected one number/,
    ],
    [
      "an alpha that is none",
      { ...pairs(down, up), [`${layer}.alpha`]: { shape: [], value: Number.NaN } },
      [`${layer}.alpha`],
      /found no finite number/,
    ],
  ];
  test.each(strangers)("%s", (_, tensors, names, message) => {
    let error: unknown;
    try {
      convertLora(open(tensors));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(WeightsMismatchError);
    expect((error as WeightsMismatchError).details.tensors).toEqual(names);
    expect((error as Error).message).toMatch(message);
  });

  const q = "unet.down_blocks.0.attentions.0.proj_in";
  const peft = pairs(`${q}.lora_A.weight`, `${q}.lora_B.weight`);
  test.each<[what: string, metadata: object | string, error: unknown, message: RegExp]>([
    ["not JSON", "{", IntegrityError, /lora_adapter_metadata cannot be read/],
    ["a list", "[]", IntegrityError, /lora_adapter_metadata cannot be read: found \[\]/],
    ["a rank that is text", { "unet.r": "2" }, IntegrityError, /unet.r cannot be read: found "2"/],
    ["patterns that are none", { "unet.alpha_pattern": [1] }, IntegrityError, /unet.alpha_pattern/],
    ["an expression that is none", { "unet.r": 2, "unet.rank_pattern": { "(": 2 } }, IntegrityError, /rank_pattern/],
    ["another rank", { "unet.r": 4 }, WeightsMismatchError, /found a rank of 2, its metadata says 4/],
  ])("metadata: %s", (_, metadata, error, message) => {
    const refused = (): LoraState => convertLora(open(peft, metadata));
    expect(refused).toThrow(error as ErrorConstructor);
    expect(refused).toThrow(message);
  });

  test("metadata of another component says nothing of this one", () => {
    const state = convertLora(open(peft, { "text_encoder.r": 4 }).view((tensors) => tensors));
    expect(state.get("unet")!.get("down_blocks.0.attentions.0.proj_in")!.alpha).toBeNull();
  });

  test("alphas as tensors and in the metadata", () => {
    const tensors = { ...pairs(down, up), [`${layer}.alpha`]: { shape: [], value: 1 } };
    expect(() => convertLora(open(tensors, { "unet.r": 2 }))).toThrow(ValueError);
    // As in Diffusers.
    expect(convertLora(open(tensors, {})).get("unet")!.size).toBe(1);
  });
});
