/** ONNX exports of models, part by part: tests/fixtures/onnx/make_onnx.py, and graphs that are made here. */
import { openSource, type Source, Tensor } from "@diffusers-web/core";
import { describe, expect, test } from "vitest";
import { encodeModel, type Model } from "../../packages/models/src/graph/protobuf.ts";
import { openOnnx } from "../../packages/models/src/onnx/onnx_file.ts";
import { ORTTextEncoder } from "../../packages/models/src/onnx/ort_text_encoder.ts";
import { ORTUnet } from "../../packages/models/src/onnx/ort_unet.ts";
import { ORTVae } from "../../packages/models/src/onnx/ort_vae.ts";
import { expectClose } from "../support/allclose.ts";
import { type FixtureTensor, fixturePath, fixtureTensors, fixtureText } from "../support/fixtures.ts";
import { memoryFile } from "../support/safetensors.ts";

type Puts = Record<string, [type: string, dims: (number | string)[]]>;
const files = JSON.parse(fixtureText("onnx/onnx.json")) as Record<string, { inputs: Puts; outputs: Puts }>;
const values = fixtureTensors("onnx/onnx.safetensors");
const tensorOf = ({ data, dims }: FixtureTensor): Tensor => new Tensor("float32", data as Float32Array, dims);

describe("files", () => {
  const types: Record<string, string> = { float: "float32" };
  const shown = (puts: Puts) =>
    Object.entries(puts).map(([name, [type, dims]]) => {
      const element = /\((.*)\)/.exec(type)![1]!;
      const sizes = dims.map((dim) => (typeof dim === "number" ? dim : undefined));
      return { name, type: types[element] ?? element, dims: sizes };
    });

  test.each(Object.keys(files))("%s: inputs and outputs as onnxruntime reads them", async (name) => {
    const source = await openSource(fixturePath(`onnx/${name}`));
    const file = (await openOnnx(source, "model.onnx", {}))!;
    expect(file.inputs).toEqual(shown(files[name]!.inputs));
    expect(file.outputs).toEqual(shown(files[name]!.outputs));
    expect(file.isHalf).toBe(name.startsWith("diffusers"));
    file.close();
  });

  test.each(["optimum/unet", "optimum/vae_decoder"])("%s: no weight is read before the engine asks", async (name) => {
    const source = await openSource(fixturePath(`onnx/${name}`));
    const read: [path: string, begin: number, end: number][] = [];
    const watched: Source = {
      name: source.name,
      open: async (path) => {
        const file = await source.open(path);
        if (file === undefined) return undefined;
        const readSync = (begin: number, end: number): Uint8Array => {
          read.push([path, begin, end]);
          return file.readSync(begin, end);
        };
        return { ...file, readSync, close: () => file.close() };
      },
    };
    const { graph, close } = (await openOnnx(watched, "model.onnx", {}))!;
    const bytes = graph.external.reduce((sum, { byteLength }) => sum + byteLength, 0);
    expect(bytes).toBeGreaterThan(30_000);
    // Only those that stay in the graph.
    const largest = Math.max(...read.filter(([path]) => path !== "model.onnx").map(([, begin, end]) => end - begin), 0);
    expect(largest).toBeLessThanOrEqual(1024);
    read.length = 0;
    for (const { byteLength, read: readWeight } of graph.external) expect(readWeight()).toHaveLength(byteLength);
    expect(read.map(([, begin, end]) => end - begin)).toEqual(graph.external.map(({ byteLength }) => byteLength));
    close();
  });
});

describe("parts against onnxruntime", () => {
  const input = (name: string) => tensorOf(values[name]!);
  // 2.3e-6 of the scale was seen in float32, and 5.4e-4 in float16, where the engines round at different places.
  const tolerances: Record<string, number> = { optimum: 1e-5, diffusers: 2e-3 };
  const expectOutput = (actual: Tensor, layout: string, name: string): void => {
    const { data, dims } = values[`${layout}/${name}`]!;
    expect(actual.dims).toEqual(dims);
    expectClose(actual.data, data as Float32Array, tolerances[layout]!, `${layout}/${name}`);
  };

  test.each(["optimum", "diffusers"])("%s", async (layout) => {
    const path = fixturePath(`onnx/${layout}`);
    await using unet = await ORTUnet.from_pretrained(path, { subfolder: "unet", device: "wasm" });
    const out = await unet(input(`${layout}/unet/sample`), 601, input(`${layout}/unet/encoder_hidden_states`));
    expectOutput(out.sample, layout, "unet/out/out_sample");

    await using vae = await ORTVae.from_pretrained(path, { device: "wasm" });
    const { sample } = await vae.decode(input(`${layout}/vae_decoder/latent_sample`));
    expectOutput(sample, layout, "vae_decoder/out/sample");
    const { latent_dist } = await vae.encode(input(`${layout}/vae_encoder/sample`));
    if (layout === "diffusers") {
      expectOutput(latent_dist.mode(), layout, "vae_encoder/out/latent_sample");
      expect(Math.max(...latent_dist.std.data)).toBeLessThan(1e-6);
    } else {
      const parameters = Tensor.cat([latent_dist.mean, latent_dist.logvar], 1);
      expectOutput(parameters, layout, "vae_encoder/out/latent_parameters");
    }

    await using text = await ORTTextEncoder.from_pretrained(path, { subfolder: "text_encoder", device: "wasm" });
    const ids = values[`${layout}/text_encoder/input_ids`]!;
    const states = await text(new Tensor("int64", ids.data as BigInt64Array, ids.dims));
    expectOutput(states.last_hidden_state, layout, "text_encoder/out/last_hidden_state");
    expectOutput(states.pooler_output, layout, "text_encoder/out/pooler_output");
    expect(states.hidden_states).toHaveLength(layout === "optimum" ? 4 : 0);
    states.hidden_states.forEach((state, i) => {
      expectOutput(state, layout, `text_encoder/out/hidden_states.${i}`);
    });
    expect([unet.dtype, vae.dtype, text.dtype]).toEqual(
      new Array(3).fill(layout === "optimum" ? "float32" : "float16"),
    );
  });
});

describe("inputs that other exports have", () => {
  const type = "float32" as const;
  const text = Tensor.ones([2, 1, 4]);
  const sample = new Tensor("float32", [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 2, 2]);
  const common = [
    { name: "sample", type, dims: [2, 1, 2, 2] },
    { name: "encoder_hidden_states", type, dims: [2, 1, 4] },
  ] as const;
  const node = (op: string, inputs: string[], output: string, attributes: Record<string, number> = {}) => ({
    type: op,
    domain: "" as const,
    inputs,
    outputs: [output],
    attributes,
  });
  const initializer = (name: string, data: Float32Array | BigInt64Array, dims: readonly number[]) => ({
    name,
    type: data instanceof Float32Array ? ("float32" as const) : ("int64" as const),
    dims,
    bytes: new Uint8Array(data.buffer),
  });
  const sourceOf = (model: Model): Source => {
    const file = memoryFile(encodeModel(model), "model.onnx");
    return { name: "made here", open: async (path) => (path === file.path ? file : undefined) };
  };

  test("one timestep for each of the batch", async () => {
    const source = sourceOf({
      nodes: [node("Reshape", ["timestep", "shape"], "t"), node("Mul", ["sample", "t"], "out_sample")],
      initializers: [initializer("shape", BigInt64Array.of(2n, 1n, 1n, 1n), [4])],
      // Old exporters list weights among the inputs.
      inputs: [...common, { name: "timestep", type, dims: [2] }, { name: "shape", type: "int64", dims: [4] }],
      outputs: [{ name: "out_sample", type, dims: [2, 1, 2, 2] }],
    });
    await using unet = await ORTUnet.from_pretrained(source, { device: "wasm" });
    const run = async (timestep: number | Tensor) => [...(await unet(sample, timestep, text)).sample.data];
    expect(await run(Tensor.from([1, 10]))).toEqual([1, 2, 3, 4, 50, 60, 70, 80]);
    expect(await run(2)).toEqual([2, 4, 6, 8, 10, 12, 14, 16]);
  });

  test("guidance embedding, pooled text, sizes and class", async () => {
    const added = ["timestep_cond", "text_embeds", "time_ids", "class_labels"];
    const source = sourceOf({
      nodes: [
        node("Cast", ["class_labels"], "class", { to: 1 }),
        node("Add", ["timestep_cond", "text_embeds"], "a"),
        node("Add", ["a", "time_ids"], "b"),
        node("Add", ["b", "class"], "c"),
        node("Add", ["sample", "c"], "out_sample"),
      ],
      initializers: [],
      inputs: [
        ...common,
        { name: "timestep", type: "int64", dims: [] },
        ...added.map((name) => ({ name, type: name === "class_labels" ? ("int32" as const) : type, dims: [1, 1] })),
      ],
      outputs: [{ name: "out_sample", type, dims: [2, 1, 2, 2] }],
    });
    await using unet = await ORTUnet.from_pretrained(source, { device: "wasm" });
    const number = (value: number) => new Tensor("float32", [value], [1, 1]);
    const added_cond_kwargs = { text_embeds: number(20), time_ids: number(300) };
    const options = { timestep_cond: number(1), class_labels: number(4000), added_cond_kwargs };
    const output = await unet(sample, 1, text, options);
    expect([...output.sample.data].map((value) => value - 4321)).toEqual([...sample.data]);
    const { class_labels: _, ...missing } = options;
    await expect(unet(sample, 1, text, missing)).rejects.toThrow(/the graph needs `class_labels`/);
    expect(unet.config.time_cond_proj_dim).toBe(1);
  });

  test("an attention mask: of ones unless it is passed", async () => {
    const source = sourceOf({
      nodes: [
        node("Mul", ["input_ids", "attention_mask"], "a"),
        node("Cast", ["a"], "b", { to: 1 }),
        node("Reshape", ["b", "shape"], "last_hidden_state"),
      ],
      initializers: [initializer("shape", BigInt64Array.of(1n, 3n, 1n), [3])],
      inputs: ["input_ids", "attention_mask"].map((name) => ({ name, type: "int64" as const, dims: [1, 3] })),
      outputs: [{ name: "last_hidden_state", type, dims: [1, 3, 1] }],
    });
    await using encoder = await ORTTextEncoder.from_pretrained(source, { device: "wasm" });
    const ids = new Tensor("int64", [5, 6, 7], [1, 3]);
    expect([...(await encoder(ids)).last_hidden_state.data]).toEqual([5, 6, 7]);
    const attention_mask = new Tensor("int64", [1, 1, 0], [1, 3]);
    expect([...(await encoder(ids, { attention_mask })).last_hidden_state.data]).toEqual([5, 6, 0]);
    await expect(encoder(new Tensor("int64", [5, 6, 49408], [1, 3]))).rejects.toThrow(/no token 49408/);
    expect(encoder.config.hidden_size).toBe(1);
  });
});
