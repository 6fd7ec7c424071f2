import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as pipelines from "@diffusers-web/pipelines";
import { type AnyPipeline, DiffusionPipeline, type Tensor } from "@diffusers-web/pipelines";
import { compare } from "../support/allclose.ts";
import { pictureOf, seeded, type Tensors } from "../support/calls.ts";
import { parseTensors } from "../support/fixture_tensors.ts";

interface Case {
  readonly name: string;
  readonly cls: string;
  /** Classes of nets and adapters, by the component that they are. */
  readonly nets: Readonly<Record<string, string>>;
  readonly steps: readonly Step[];
  readonly options: Readonly<Record<string, unknown>> & { readonly seed: number | readonly number[] };
  /** How far float32 is from float64 in Python, of the scale. */
  readonly own_error: number;
}

type Step =
  | readonly ["lora", weight: number | null, isFused: boolean]
  | readonly ["ip", subfolder: string, scale: number]
  | readonly ["freeu", { readonly s1: number; readonly s2: number; readonly b1: number; readonly b2: number }];

interface Loads {
  from_pretrained(path: string, options: object): Promise<object>;
  from_pipe(pipeline: object, parts: object): Promise<AnyPipeline>;
}

const classes = pipelines as unknown as Readonly<Record<string, Loads>>;
const device = "wasm";
const pictured = ["ip_adapter_image", "image", "control_image", "mask_image"];

/** @returns how many of the cases differ by more than what rounding explains */
export async function compareCases(folder: string, names: readonly string[]): Promise<number> {
  const all = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) as Case[];
  const tensors = parseTensors(new Uint8Array(readFileSync(join(folder, "cases.safetensors"))));
  console.warn = () => undefined;
  let failures = 0;
  for (const one of all.filter(({ name }) => names.length === 0 || names.includes(name))) {
    const difference = await differenceOf(one, folder, tensors);
    // Rounding in another order: about as much as in Python itself.
    const isOff = typeof difference === "string" || !(difference <= Math.max(1e-4, 8 * one.own_error));
    if (isOff) failures++;
    const told = typeof difference === "string" ? difference : difference.toExponential(1);
    console.log(
      `${isOff ? "×" : "✓"} ${one.name} ${one.cls}: ${told} (Python's own ${one.own_error.toExponential(1)})`,
    );
  }
  console.log(`${failures} of ${names.length || all.length} differ.`);
  return failures;
}

/** The largest difference of the latents, of their scale; or an error. */
async function differenceOf(one: Case, folder: string, tensors: Tensors): Promise<number | string> {
  try {
    const latents = await latentsOf(one, join(folder, one.name), tensors);
    const { data, dims } = tensors[`${one.name}/latent`]!;
    if (`${latents.dims}` !== `${dims}`) return `dims are ${latents.dims}, expected ${dims}`;
    const { error, scale } = compare(latents.data, data as Float32Array);
    return error / scale;
  } catch (error) {
    return String(error);
  }
}

async function latentsOf({ cls, nets, steps, options }: Case, folder: string, tensors: Tensors): Promise<Tensor> {
  const base = await DiffusionPipeline.from_pretrained(`${folder}/base`, { device });
  try {
    const parts: Record<string, object> = {};
    for (const [name, net] of Object.entries(nets)) {
      parts[name] = await classes[net]!.from_pretrained(`${folder}/${name}`, { device });
    }
    const pipeline = await classes[cls]!.from_pipe(base, parts);
    for (const step of steps) await take(pipeline, step, folder);
    const { seed, ...call } = options;
    const made: Record<string, unknown> = { ...call };
    for (const key of pictured) {
      if (key in call) made[key] = pictureOf(tensors[`picture/${call[key]}`]!);
    }
    const generator = typeof seed === "number" ? seeded(seed) : seed.map(seeded);
    return (await pipeline({ ...made, generator, output_type: "latent" })).images;
  } finally {
    await base.dispose();
  }
}

async function take(pipeline: AnyPipeline, step: Step, folder: string): Promise<void> {
  if (step[0] === "lora") {
    const [, weight, isFused] = step;
    await pipeline.load_lora_weights(folder, { weight_name: "lora.safetensors", adapter_name: "a" });
    if (weight !== null) pipeline.set_adapters("a", weight);
    if (isFused) pipeline.fuse_lora();
  } else if (step[0] === "ip") {
    await pipeline.load_ip_adapter(`${folder}/ip`, { subfolder: step[1], weight_name: "ip.safetensors" });
    pipeline.set_ip_adapter_scale(step[2]);
  } else {
    const { s1, s2, b1, b2 } = step[1];
    pipeline.enable_freeu(s1, s2, b1, b2);
  }
}
