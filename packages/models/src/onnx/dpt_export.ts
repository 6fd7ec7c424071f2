import { ModelNotFoundError, openSource, type SourceLike, subSource, type Tensor } from "@diffusers-web/core";
import type { ModelLoadOptions } from "../modeling_utils.ts";
import type { DepthEstimatorOutput } from "../transformers/modeling_dpt.ts";
import { OnnxModel } from "./onnx_model.ts";
import type { OnnxParts } from "./onnx_parts.ts";

const className = "DPTForDepthEstimation";

/** The graph of a depth estimator, as transformers.js and Optimum export it. */
export class ORTDepthEstimator extends OnnxModel<object> {
  static override readonly name: string = className;
  static override readonly parts: OnnxParts = graphIn("model.onnx");

  /** The graph says all that is needed. */
  static override prepare_config(): Record<string, never> {
    return {};
  }

  override async forward(pixel_values: Tensor): Promise<DepthEstimatorOutput> {
    const { predicted_depth } = await this.runPart("model", { pixel_values }, ["predicted_depth"]);
    return { predicted_depth: predicted_depth! };
  }
}

/** The same in half precision, which transformers.js keeps beside it. */
class ORTHalfDepthEstimator extends ORTDepthEstimator {
  static override readonly parts: OnnxParts = graphIn("model_fp16.onnx");
}

function graphIn(file: string): OnnxParts {
  const names = { inputs: ["pixel_values"], required: ["pixel_values"], outputs: ["predicted_depth"] };
  return { model: { file, ...names } };
}

/** How an export is looked for. */
export interface DptExportRequest {
  readonly options: ModelLoadOptions;
  /** Only where the source lists its files, so that it is known that there are no safetensors. */
  readonly onlyListed: boolean;
}

/**
 * Opens the ONNX export in a repository that has no safetensors: `onnx/model.onnx` or `model.onnx`, or the `_fp16` one.
 *
 * @returns undefined when there is none, or when there are safetensors
 * @throws ModelNotFoundError when there are exports, but only of other precisions.
 */
export async function openDptExport(
  from: SourceLike,
  variant: string | undefined,
  { options, onlyListed }: DptExportRequest,
): Promise<ORTDepthEstimator | undefined> {
  const { dtype = "auto", signal, device, progress_callback } = options;
  const folder = subSource(await openSource(from, options), options.subfolder);
  const listing = await folder.list?.({ signal });
  if (listing === undefined && onlyListed) return undefined;
  const listed = listing === undefined ? undefined : new Set(listing.map(({ path }) => path));
  // Of whatever variant: the first error says which to ask for.
  if ([...(listed ?? [])].some((path) => /^[^/]+\.safetensors/.test(path))) return undefined;

  const isHalf = /16$/.test(dtype);
  const classes = dtype === "auto" ? [ORTDepthEstimator, ORTHalfDepthEstimator] : [];
  if (dtype !== "auto") classes.push(isHalf ? ORTHalfDepthEstimator : ORTDepthEstimator);
  for (const cls of classes) {
    for (const place of ["onnx", ""]) {
      const file = cls.parts["model"]!.file;
      if (listed !== undefined && !listed.has(place === "" ? file : `${place}/${file}`)) continue;
      try {
        const source = subSource(folder, place);
        return await cls.from_pretrained(source, { dtype, signal, device, progress_callback, variant });
      } catch (error) {
        const isAbsent = listed === undefined && error instanceof ModelNotFoundError && error.details.file === file;
        if (!isAbsent) throw error;
      }
    }
  }
  const others = [...(listed ?? [])].filter((path) => /^(onnx\/)?[^/]+\.onnx$/.test(path));
  if (others.length === 0) return undefined;
  const expected = classes.map((cls) => `onnx/${cls.parts["model"]!.file}`).join(" or ");
  throw new ModelNotFoundError(
    `${folder.name} has no model.safetensors, and no ${expected} (for dtype "${dtype}"): its exports are ` +
      `${others.join(", ")}. Ask for another dtype, or use a repository with safetensors.`,
    { className: className, file: expected, found: others.join(", "), expected },
  );
}
