import { IntegrityError, ValueError, WeightsMismatchError } from "@diffusers-web/core";
import type { Weights } from "@diffusers-web/models";
import type { LoraComponent } from "./lora_conversion_utils.ts";

/** An alpha that kohya's scripts wrote, as a tensor. */
export interface AlphaKey {
  readonly component: LoraComponent;
  /** What Diffusers calls the layer's `down`, without the component. */
  readonly name: string;
  readonly tensor: string;
}

/** A layer's alpha; null where the file says nothing. */
export type AlphaOf = (component: LoraComponent, module: string, down: string) => number | null;

/**
 * The alphas of a file: tensors of its own, or PEFT's config in its metadata.
 *
 * @throws ValueError where there are both, IntegrityError or WeightsMismatchError for what cannot be read or does not fit.
 */
export function readAlphas(weights: Weights, keys: readonly AlphaKey[]): AlphaOf {
  const written = weights.metadata[METADATA_KEY];
  if (written === undefined || written === "") return networkAlphas(weights, keys);
  const metadata = parseMetadata(written, weights.file);
  if (keys.length === 0 || Object.keys(metadata).length === 0) return metadataAlphas(weights, metadata);
  throw new ValueError(`${weights.file} says its alphas twice: as tensors (${keys[0]!.tensor}) and in its metadata.`, {
    file: weights.file,
    field: METADATA_KEY,
    found: "alphas in both",
    expected: "one of them",
  });
}

/**
 * Alphas from tensors: in each component the commonest one holds for all layers, except for those of another one.
 *
 * As in Diffusers, whose look-up fails for some layers, an attention's projections always have the commonest, and so have all
 * layers of `text_encoder` where the file's names have `text_model`.
 *
 * @see Diffusers `get_peft_kwargs`, `_get_alpha_name`
 */
function networkAlphas(weights: Weights, keys: readonly AlphaKey[]): AlphaOf {
  const counts = new Map<LoraComponent, Map<number, number>>();
  const own = new Map<string, number>();
  for (const { component, name, tensor } of keys) {
    const alpha = scalar(weights, tensor);
    const count = counts.get(component) ?? new Map<number, number>();
    counts.set(component, count.set(alpha, (count.get(alpha) ?? 0) + 1));
    const [, path] = /^(.*)\.lora\.down\.weight$/.exec(name) ?? [];
    if (path === undefined || (component === "text_encoder" && path.startsWith("text_model."))) continue;
    own.set(`${component}.${path.replace(/^text_model\./, "")}`, alpha);
  }
  const commonest = new Map<LoraComponent, number>();
  for (const [component, count] of counts) {
    const most = Math.max(...count.values());
    commonest.set(component, [...count].find(([, times]) => times === most)![0]);
  }
  return (component, module) => own.get(`${component}.${module}`) ?? commonest.get(component) ?? null;
}

/** A tensor of one number. */
function scalar(weights: Weights, tensor: string): number {
  const shape = weights.shape(tensor)!;
  const isWhole = /^I/.test(weights.dtype(tensor));
  const isOne = shape.every((dim) => dim === 1);
  if (isOne) {
    const bytes = weights.read(tensor, isWhole ? "int64" : "float32").slice();
    const value = isWhole ? Number(new BigInt64Array(bytes.buffer)[0]) : new Float32Array(bytes.buffer)[0]!;
    if (Number.isFinite(value)) return value;
  }
  const found = isOne ? "no finite number" : `[${shape.join(", ")}]`;
  throw new WeightsMismatchError(`${weights.file}, tensor ${tensor}: found ${found}, expected one number.`, {
    file: weights.file,
    tensors: [tensor],
    found,
    expected: "one number",
  });
}

/** Where Diffusers writes what PEFT has to know. */
const METADATA_KEY = "lora_adapter_metadata";

/** What of PEFT's `LoraConfig` counts here. */
interface LoraConfig {
  readonly r: number;
  readonly lora_alpha: number;
  readonly rank_pattern: readonly Pattern[];
  readonly alpha_pattern: readonly Pattern[];
  /** Scale by `alpha / sqrt(rank)`. */
  readonly use_rslora: boolean;
}

/** Which layers a number holds for: those whose name ends so. */
interface Pattern {
  readonly key: RegExp;
  readonly value: number;
}

/** @see peft `LoraModel._create_and_replace`, `LoraLayer.update_layer` */
function metadataAlphas(weights: Weights, metadata: Readonly<Record<string, unknown>>): AlphaOf {
  const { file } = weights;
  const configs = new Map<LoraComponent, LoraConfig | undefined>();
  return (component, module, down) => {
    if (!configs.has(component)) configs.set(component, componentConfig(metadata, component, file));
    const config = configs.get(component);
    if (config === undefined) return null;
    // Patterns are written for transformers' names.
    const isNested = component === "text_encoder_2" && module !== "text_projection";
    const name = isNested ? `text_model.${module}` : module;
    const of = (patterns: readonly Pattern[], otherwise: number): number =>
      patterns.find(({ key }) => key.test(name))?.value ?? otherwise;
    const rank = of(config.rank_pattern, config.r);
    const alpha = of(config.alpha_pattern, config.lora_alpha);
    const found = weights.shape(down)?.[0];
    if (found === rank) return config.use_rslora ? alpha * Math.sqrt(rank) : alpha;
    throw new WeightsMismatchError(`${file}, tensor ${down}: found a rank of ${found}, its metadata says ${rank}.`, {
      file,
      tensors: [down],
      found: String(found),
      expected: String(rank),
    });
  };
}

/** The entries of one component; undefined where there are none. */
function componentConfig(
  metadata: Readonly<Record<string, unknown>>,
  component: LoraComponent,
  file: string,
): LoraConfig | undefined {
  const prefix = `${component}.`;
  if (!Object.keys(metadata).some((key) => key.startsWith(prefix))) return undefined;
  // PEFT's default for both is 8.
  const {
    r = 8,
    lora_alpha = 8,
    rank_pattern,
    alpha_pattern,
    use_rslora,
  } = Object.fromEntries(
    Object.entries(metadata).flatMap(([key, value]) =>
      key.startsWith(prefix) ? [[key.slice(prefix.length), value]] : [],
    ),
  );
  return {
    r: checkNumber(r, `${prefix}r`, file),
    lora_alpha: checkNumber(lora_alpha, `${prefix}lora_alpha`, file),
    rank_pattern: patternsOf(rank_pattern, `${prefix}rank_pattern`, file),
    alpha_pattern: patternsOf(alpha_pattern, `${prefix}alpha_pattern`, file),
    use_rslora: use_rslora === true,
  };
}

function patternsOf(value: unknown, field: string, file: string): Pattern[] {
  if (value === undefined || value === null) return [];
  if (typeof value !== "object" || Array.isArray(value)) throw unreadable(file, field, JSON.stringify(value));
  return Object.entries(value).map(([key, number]) => {
    try {
      return { key: new RegExp(`^(.*\\.)?(${key})$`), value: checkNumber(number, field, file) };
    } catch (cause) {
      throw cause instanceof IntegrityError ? cause : unreadable(file, field, key, cause);
    }
  });
}

function checkNumber(value: unknown, field: string, file: string): number {
  if (typeof value === "number") return value;
  throw unreadable(file, field, JSON.stringify(value));
}

function parseMetadata(text: string, file: string): Readonly<Record<string, unknown>> {
  let metadata: unknown;
  try {
    metadata = JSON.parse(text);
  } catch (cause) {
    throw unreadable(file, METADATA_KEY, (cause as Error).message, cause);
  }
  const isObject = typeof metadata === "object" && metadata !== null && !Array.isArray(metadata);
  if (isObject) return metadata as Record<string, unknown>;
  throw unreadable(file, METADATA_KEY, text);
}

function unreadable(file: string, field: string, found: string, cause?: unknown): IntegrityError {
  const expected = "PEFT's LoraConfig as JSON";
  return new IntegrityError(
    `${file}: its metadata's ${field} cannot be read: found ${found}, expected ${expected}.`,
    { file, field, found, expected },
    { cause },
  );
}
