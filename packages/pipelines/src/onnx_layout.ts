import { type ConfigDict, type FileInfo, ModelNotFoundError } from "@diffusers-web/core";
import type { PreparedModel } from "@diffusers-web/models";
import { componentRegistry, OPTIMUM } from "./component_registry.ts";
import type { WantedComponent } from "./pipeline_loading_utils.ts";

/** The components that exports have as graphs, and the classes that load those. */
const exported = { text_encoder: "ORTTextEncoder", unet: "ORTUnet", vae: "ORTVae" } as const;

/**
 * The model_index.json of an ONNX export, as one of the pipeline that it is an export of. Any other comes back as it is.
 *
 * Diffusers (OnnxStableDiffusionPipeline) writes `OnnxRuntimeModel` for every graph, Optimum (ORTStableDiffusionPipeline) names
 * of its own or those of the original; both have the VAE in two halves.
 */
export function originalIndex(index: ConfigDict): ConfigDict {
  const { vae_decoder, vae_encoder, ...rest } = index;
  const name = index["_class_name"];
  const isExport = typeof name === "string" && /^(Onnx|ORT)[A-Z]|OnnxPipeline$/.test(name);
  const halves = [vae_decoder, vae_encoder].filter((half) => half !== undefined);
  if (!isExport && ![...Object.values(rest), ...halves].some(isGraph)) return index;

  const written: Record<string, unknown> = { vae: halves.find(isThere) ?? halves[0], ...rest };
  const result = isExport ? { ...rest, _class_name: name.replace(/^(Onnx|ORT)|Onnx(?=Pipeline$)/, "") } : rest;
  const graphs = Object.entries(exported).filter(
    ([key]) => isGraph(written[key]) || (isExport && isThere(written[key])),
  );
  return { ...result, ...Object.fromEntries(graphs.map(([key, className]) => [key, [OPTIMUM, className]])) };
}

function isThere(written: unknown): boolean {
  return Array.isArray(written) && written[0] !== null;
}

function isGraph(written: unknown): boolean {
  return Array.isArray(written) && /^(OnnxRuntimeModel$|_?ORT)/.test(String(written[1]));
}

/** What loads a component's ONNX export. */
function exportOf({ key, entry }: WantedComponent): WantedComponent | undefined {
  const className = entry.exported_as;
  return className === undefined ? undefined : { key, entry: componentRegistry[className]! };
}

/**
 * The components, each as its ONNX export where the files that there are have nothing else of it: Optimum's command line
 * keeps the original's model_index.json.
 */
export function exportsAmong(wanted: readonly WantedComponent[], listing: readonly FileInfo[]): WantedComponent[] {
  return wanted.map((one) => {
    const onnx = exportOf(one);
    if (onnx === undefined) return one;
    const [file] = onnx.entry.files as [string];
    const graph = file.includes("/") ? file : `${one.key}/${file}`;
    const isWeights = (path: string): boolean =>
      path.endsWith(".safetensors") && (path.startsWith(`${one.key}/`) || !path.includes("/"));
    const paths = listing.map(({ path }) => path);
    return paths.includes(graph) && !paths.some(isWeights) ? onnx : one;
  });
}

/**
 * The same where nobody lists the files: the export is looked for when nothing else was found of a component.
 *
 * @throws what came of the component itself, when there is no export either.
 */
export async function prepareOrExport<T>(
  one: WantedComponent,
  prepare: (component: WantedComponent) => Promise<PreparedModel<T>>,
): Promise<PreparedModel<T>> {
  const onnx = exportOf(one);
  if (onnx === undefined) return prepare(one);
  const instead = async (error: unknown, variant: string | undefined): Promise<T> => {
    if (!isAbsence(error)) throw error;
    try {
      return await (await prepare(onnx)).load(variant);
    } catch (second) {
      throw isAbsence(second) ? error : second;
    }
  };
  try {
    const prepared = await prepare(one);
    return { load: (variant) => prepared.load(variant).catch((error: unknown) => instead(error, variant)) };
  } catch (error) {
    if (!isAbsence(error)) throw error;
    return { load: (variant) => instead(error, variant) };
  }
}

function isAbsence(error: unknown): boolean {
  return error instanceof ModelNotFoundError && error.details.field !== "variant";
}
