import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ModelNotFoundError,
  openSource,
  type Source,
  subSource,
  Tensor,
  UnsupportedModelError,
  ValueError,
} from "@diffusers-web/core";
import {
  ControlNetModel,
  type ControlNetOptions,
  MultiAdapter,
  MultiControlNetModel,
  T2IAdapter,
} from "@diffusers-web/models";
import { describe, expect, it } from "vitest";
import type { Target } from "../../packages/models/src/graph/types.ts";
import { expectClose } from "../support/allclose.ts";
import { type CaseTable, caseInputs, caseSource, memorySource } from "./cases.ts";
import { caseShapes, modelCases } from "./cases_node.ts";

const classes = { ControlNetModel, T2IAdapter };
type Row = readonly [keyof typeof classes, Record<string, unknown>, string];

const unsupported: readonly Row[] = [
  ["ControlNetModel", { down_block_types: ["KDownBlock2D"] }, "down_block_types"],
  ["ControlNetModel", { down_block_types: ["SkipDownBlock2D"] }, "down_block_types"],
  ["ControlNetModel", { down_block_types: ["DownEncoderBlock2D"] }, "down_block_types"],
  ["ControlNetModel", { mid_block_type: null }, "mid_block_type"],
  ["ControlNetModel", { mid_block_type: "UNetMidBlock2DSimpleCrossAttn" }, "mid_block_type"],
  ["ControlNetModel", { act_fn: "elu" }, "act_fn"],
  ["ControlNetModel", { resnet_time_scale_shift: "ada_group" }, "resnet_time_scale_shift"],
  ["ControlNetModel", { class_embed_type: "text" }, "class_embed_type"],
  ["ControlNetModel", { encoder_hid_dim: 8, encoder_hid_dim_type: "image_proj" }, "encoder_hid_dim_type"],
  ["ControlNetModel", { addition_embed_type: "image_hint" }, "addition_embed_type"],
  ["ControlNetModel", { controlnet_conditioning_channel_order: "grb" }, "controlnet_conditioning_channel_order"],
  ["T2IAdapter", { adapter_type: "heavy_adapter" }, "adapter_type"],
];

const wrong: readonly Row[] = [
  ["ControlNetModel", { down_block_types: [] }, "down_block_types"],
  ["ControlNetModel", { block_out_channels: [320] }, "block_out_channels"],
  ["ControlNetModel", { block_out_channels: 320 }, "block_out_channels"],
  ["ControlNetModel", { only_cross_attention: [true] }, "only_cross_attention"],
  ["ControlNetModel", { only_cross_attention: null }, "only_cross_attention"],
  ["ControlNetModel", { num_attention_heads: [8] }, "num_attention_heads"],
  ["ControlNetModel", { num_attention_heads: 321 }, "num_attention_heads"],
  ["ControlNetModel", { attention_head_dim: [8] }, "attention_head_dim"],
  ["ControlNetModel", { attention_head_dim: null }, "attention_head_dim"],
  ["ControlNetModel", { attention_head_dim: [null, 8, 8, 8] }, "attention_head_dim"],
  ["ControlNetModel", { layers_per_block: [2, 2, 2, 2] }, "layers_per_block"],
  ["ControlNetModel", { layers_per_block: 0 }, "layers_per_block"],
  ["ControlNetModel", { norm_num_groups: null }, "norm_num_groups"],
  ["ControlNetModel", { norm_num_groups: 31 }, "norm_num_groups"],
  ["ControlNetModel", { cross_attention_dim: null }, "cross_attention_dim"],
  ["ControlNetModel", { cross_attention_dim: [768, 768, 768, 768] }, "cross_attention_dim"],
  ["ControlNetModel", { transformer_layers_per_block: [1, 1] }, "transformer_layers_per_block"],
  ["ControlNetModel", { transformer_layers_per_block: [[1], 1, 1, 1] }, "transformer_layers_per_block"],
  ["ControlNetModel", { mid_block_scale_factor: 0 }, "mid_block_scale_factor"],
  ["ControlNetModel", { downsample_padding: -1 }, "downsample_padding"],
  ["ControlNetModel", { num_class_embeds: 0 }, "num_class_embeds"],
  ["ControlNetModel", { conditioning_channels: 0 }, "conditioning_channels"],
  ["ControlNetModel", { conditioning_embedding_out_channels: null }, "conditioning_embedding_out_channels"],
  ["ControlNetModel", { conditioning_embedding_out_channels: [] }, "conditioning_embedding_out_channels"],
  ["ControlNetModel", { encoder_hid_dim_type: "text_proj" }, "encoder_hid_dim"],
  ["ControlNetModel", { class_embed_type: "projection" }, "projection_class_embeddings_input_dim"],
  ["ControlNetModel", { addition_embed_type: "text_time" }, "projection_class_embeddings_input_dim"],
  [
    "ControlNetModel",
    { addition_embed_type: "text_time", projection_class_embeddings_input_dim: 9 },
    "addition_time_embed_dim",
  ],
  [
    "ControlNetModel",
    { addition_embed_type: "text", addition_embed_type_num_heads: 7 },
    "addition_embed_type_num_heads",
  ],
  ["ControlNetModel", { addition_embed_type: "text", encoder_hid_dim: 8 }, "encoder_hid_dim"],
  [
    "ControlNetModel",
    { down_block_types: ["SimpleCrossAttnDownBlock2D"], block_out_channels: [32], attention_head_dim: 5 },
    "attention_head_dim",
  ],
  ["T2IAdapter", { in_channels: 0 }, "in_channels"],
  ["T2IAdapter", { channels: [] }, "channels"],
  ["T2IAdapter", { channels: 320 }, "channels"],
  ["T2IAdapter", { channels: [3, 8], adapter_type: "light_adapter" }, "channels"],
  ["T2IAdapter", { channels: [320, 640, 1280, 640], adapter_type: "full_adapter_xl" }, "channels"],
  ["T2IAdapter", { num_res_blocks: -1 }, "num_res_blocks"],
  ["T2IAdapter", { downscale_factor: 0.5 }, "downscale_factor"],
];

describe.each([
  ["not built", UnsupportedModelError, unsupported],
  ["wrong", ValueError, wrong],
] as const)("a config that is %s is refused by name", (_, ErrorClass, table) => {
  it.each(table)("%s %j", (className, config, field) => {
    const error = thrownBy(() => new (classes[className] as new (config: object) => object)(config));
    expect(error).toBeInstanceOf(ErrorClass);
    expect((error as ValueError).details).toMatchObject({ className, field });
    expect((error as Error).message).toContain(className);
    expect((error as Error).message).toContain(field);
  });
});

describe("the config of another class is refused by its name", () => {
  it.each([
    ["ControlNetUnionModel", { _class_name: "ControlNetUnionModel" }],
    ["ControlNetUnionModel", { _class_name: "ControlNetModel", num_control_type: 6 }],
    ["ControlNetXSAdapter", { _class_name: "ControlNetXSAdapter" }],
    ["UNetControlNetXSModel", { _class_name: "UNetControlNetXSModel" }],
    ["SD3ControlNetModel", { _class_name: "SD3ControlNetModel" }],
    ["FluxControlNetModel", { _class_name: "FluxControlNetModel" }],
    ["SparseControlNetModel", { _class_name: "SparseControlNetModel" }],
  ])("%s %j", async (className, config) => {
    const source = memorySource("other", { "config.json": new TextEncoder().encode(JSON.stringify(config)) });
    const error = await ControlNetModel.from_pretrained(source, { device: "wasm" }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect((error as UnsupportedModelError).details).toMatchObject({ className });
    expect((error as Error).message).toContain(className);
  });

  it("Flax's name of the class is its own", () => {
    expect(ControlNetModel.prepare_config({ _class_name: "FlaxControlNetModel" })).toBeDefined();
  });
});

const name = "ControlNetModel/guess_mode";
const one = (which: string): CaseTable["cases"][number] => modelCases.find((candidate) => candidate.name === which)!;
const loadCase = async (which: string): Promise<ControlNetModel> =>
  ControlNetModel.from_pretrained(caseSource(one(which), caseShapes[which]!), { device: "wasm" });
const zeros = (...dims: number[]): Tensor => Tensor.zeros(dims);

describe("a call that does not fit is refused by name", () => {
  type Call = readonly [sample: unknown, timestep: unknown, text: unknown, cond: unknown, options?: object];
  const good = [zeros(2, 4, 4, 2), 3, zeros(2, 5, 12), zeros(2, 3, 8, 4)] as const;
  const [sample, timestep, text, cond] = good;
  it.each<readonly [string, Call]>([
    ["sample", [zeros(2, 3, 4, 2), timestep, text, cond]],
    ["sample", [zeros(4, 4, 2), timestep, text, cond]],
    ["encoder_hidden_states", [sample, timestep, zeros(2, 5, 8), cond]],
    ["encoder_hidden_states", [sample, timestep, zeros(1, 5, 12), cond]],
    ["encoder_hidden_states", [sample, timestep, null, cond]],
    ["controlnet_cond", [sample, timestep, text, zeros(2, 4, 8, 4)]],
    ["controlnet_cond", [sample, timestep, text, zeros(3, 3, 8, 4)]],
    ["controlnet_cond", [sample, timestep, text, zeros(2, 3, 4, 2)]],
    ["controlnet_cond", [sample, timestep, text, zeros(2, 3, 9, 4)]],
    ["controlnet_cond", [sample, timestep, text, zeros(3, 8, 4)]],
    ["controlnet_cond", [sample, timestep, text, undefined]],
    ["timestep", [sample, Tensor.from([1, 2, 3]), text, cond]],
    ["timestep_cond", [...good, { timestep_cond: zeros(2, 10) }]],
    ["class_labels", [...good, { class_labels: zeros(2) }]],
    ["conditioning_scale", [...good, { conditioning_scale: [1] }]],
    ["conditioning_scale", [...good, { conditioning_scale: Number.NaN }]],
    ["guess_mode", [...good, { guess_mode: "yes" }]],
  ])("%s %#", async (field, call) => {
    await using net = await loadCase(name);
    const error = await (net as unknown as (...args: unknown[]) => Promise<unknown>)(...call).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details.field).toBe(field);
    expect((error as Error).message).toContain(field);
  });

  it("an unknown option is a TypeError that names the nearest known", async () => {
    await using net = await loadCase(name);
    const options = { conditionning_scale: 1 } as ControlNetOptions;
    await expect(net(...good, options)).rejects.toThrow(/`conditioning_scale`/);
  });

  it.each([
    ["x", zeros(2, 4, 16, 16)],
    ["x", zeros(2, 3, 15, 16)],
    ["x", zeros(2, 3, 0, 16)],
    ["x", null],
  ])("T2IAdapter %s %#", async (field, x) => {
    const which = "T2IAdapter/full";
    await using adapter = await T2IAdapter.from_pretrained(caseSource(one(which), caseShapes[which]!), {
      device: "wasm",
    });
    const error = await adapter(x as Tensor).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details).toMatchObject({ className: "T2IAdapter", field });
  });
});

it("another scale uses the graph that there is; residuals are in proportion to it", async () => {
  await using net = await loadCase(name);
  const { sample, encoder_hidden_states, controlnet_cond } = inputs();
  const sessions = (): unknown[] => [
    ...(net as unknown as { sessions: Map<string, { session: unknown }> }).sessions.values(),
  ];
  const first = await net(sample, 5, encoder_hidden_states, controlnet_cond, { conditioning_scale: 1 });
  const [before] = sessions();
  const second = await net(sample, 5, encoder_hidden_states, controlnet_cond, { conditioning_scale: 0.25 });
  expect(sessions()[0]).toBe(before);
  expect(second.mid_block_res_sample.data).toEqual(first.mid_block_res_sample.mul(0.25).data);
});

it("attention in slices gives the same", async () => {
  await using net = await loadCase(name);
  const { loaded } = net as unknown as { loaded: { device: { target: Target } } };
  const { target } = loaded.device;
  loaded.device = { ...loaded.device, target: { ...target, fused: { ...target.fused, attention: false } } };
  const { sample, encoder_hidden_states, controlnet_cond } = inputs();
  const call = async (): Promise<Tensor> =>
    (await net(sample, 5, encoder_hidden_states, controlnet_cond)).mid_block_res_sample;
  const whole = await call();
  net.set_attention_slice("max");
  expectClose((await call()).data, whole.data, 1e-5);
  const error = thrownBy(() => net.set_attention_slice(9));
  expect(error).toBeInstanceOf(ValueError);
  expect((error as ValueError).details).toMatchObject({ className: "ControlNetModel", field: "slice_size" });
});

function inputs(): Record<"sample" | "encoder_hidden_states" | "controlnet_cond", Tensor> {
  return caseInputs(one(name)) as ReturnType<typeof inputs>;
}

describe("several models as one", () => {
  it.each(["a folder's path", "a source and a subfolder", "a folder of a source"])(
    "are loaded from %s",
    async (form) => {
      const file = "diffusion_pytorch_model.safetensors";
      const root = mkdtempSync(join(tmpdir(), "controlnets-"));
      try {
        const from = caseSource(one(name), caseShapes[name]!);
        for (const folder of ["nets", "nets_1", "nets_2", "nets_4"]) {
          mkdirSync(join(root, folder));
          for (const path of ["config.json", file]) {
            const opened = (await from.open(path))!;
            writeFileSync(join(root, folder, path), opened.readSync(0, opened.size));
          }
        }
        const options = { device: "wasm", subfolder: form.includes("subfolder") ? "nets" : undefined } as const;
        const source = form.includes("path") ? `${root}/nets/` : await openSource(root);
        const folder = form === "a folder of a source" ? subSource(source as Source, "nets") : source;
        await using nets = await MultiControlNetModel.from_pretrained(folder, options);
        expect(nets.nets.length).toBe(3);
      } finally {
        rmSync(root, { recursive: true });
      }
    },
  );

  it("what is missing, and what is wrong with a second one, is an error", async () => {
    const options = { device: "wasm", subfolder: "net" } as const;
    const missing = MultiControlNetModel.from_pretrained(memorySource("empty", {}), options);
    await expect(missing).rejects.toBeInstanceOf(ModelNotFoundError);
    const json = (config: object): Uint8Array => new TextEncoder().encode(JSON.stringify(config));
    const files = { "net/config.json": json({}), "net_1/config.json": json({ _class_name: "FluxControlNetModel" }) };
    const other = MultiControlNetModel.from_pretrained(memorySource("mixed", files), options);
    await expect(other).rejects.toThrow(/FluxControlNetModel/);
  });

  it("no model, or for adapters one, is a ValueError", async () => {
    expect(() => new MultiControlNetModel([])).toThrow(ValueError);
    expect(() => new MultiAdapter([])).toThrow(ValueError);
    expect(() => new MultiAdapter([new T2IAdapter()])).toThrow(/T2IAdapter/);
  });

  it("adapters that shrink pictures differently do not go together", () => {
    const error = thrownBy(() => new MultiAdapter([new T2IAdapter(), new T2IAdapter({ downscale_factor: 16 })]));
    expect(error).toBeInstanceOf(ValueError);
    expect((error as ValueError).details.field).toBe("total_downscale_factor");
  });

  it("another number of pictures, scales or weights than of models is a ValueError", async () => {
    const { sample, encoder_hidden_states, controlnet_cond } = inputs();
    await using nets = new MultiControlNetModel([await loadCase(name), await loadCase(name)]);
    const call = (cond: readonly Tensor[], conditioning_scale?: number[]): Promise<unknown> =>
      nets(sample, 5, encoder_hidden_states, cond, { conditioning_scale }).catch((thrown: unknown) => thrown);
    for (const [field, result] of [
      ["controlnet_cond", await call([controlnet_cond])],
      ["controlnet_cond", await call(controlnet_cond as unknown as Tensor[])],
      ["conditioning_scale", await call([controlnet_cond, controlnet_cond], [1])],
    ] as const) {
      expect(result).toBeInstanceOf(ValueError);
      expect((result as ValueError).details).toMatchObject({ className: "MultiControlNetModel", field });
    }
    const adapters = new MultiAdapter([new T2IAdapter(), new T2IAdapter()]);
    await expect(adapters([zeros(1, 3, 64, 64)])).rejects.toThrow(/`xs`/);
    await expect(adapters([zeros(1, 3, 64, 64), zeros(1, 3, 64, 64)], [1])).rejects.toThrow(/`adapter_weights`/);
  });

  it("nets whose residuals differ are a ValueError", async () => {
    const { sample, encoder_hidden_states, controlnet_cond } = inputs();
    await using nets = new MultiControlNetModel([
      await loadCase(name),
      await loadCase("ControlNetModel/downsample_padding_0"),
    ]);
    const cond = [controlnet_cond, controlnet_cond];
    await expect(nets(sample, 5, encoder_hidden_states, cond)).rejects.toThrow(/residuals of sizes/);
  });

  it("a hook before runs and the device are those of all; what is disposed of is disposed of whole", async () => {
    const members = [await loadCase(name), await loadCase(name)];
    const nets = new MultiControlNetModel(members);
    expect(nets.device).toBe("wasm");
    let runs = 0;
    nets.before_run = async () => {
      runs++;
    };
    const { sample, encoder_hidden_states, controlnet_cond } = inputs();
    await nets(sample, 5, encoder_hidden_states, [controlnet_cond, controlnet_cond]);
    expect(runs).toBe(2);
    await nets.dispose();
    await nets.dispose();
    expect(() => members[1]!.device).toThrow(/disposed/);
  });
});

function thrownBy(task: () => unknown): unknown {
  try {
    task();
  } catch (error) {
    return error;
  }
  return undefined;
}
