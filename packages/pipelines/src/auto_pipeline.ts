import { type ConfigDict, type SourceLike, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { AnyPipeline } from "./any_pipeline.ts";
import type { FromPipeOptions } from "./from_pipe.ts";
import type { PipelineLoadOptions } from "./pipeline_components.ts";
import { loadPipeline } from "./pipeline_loading.ts";
import { pipelineClassName } from "./pipeline_loading_utils.ts";
import type { PipelineClass } from "./pipeline_utils.ts";
import { DiffusionPipeline } from "./registry.ts";
import { loadWhere } from "./worker/load.ts";

/** What `from_pretrained` of an AutoPipeline takes. With a `controlnet`, the class is that of its family with ControlNet. */
export type AutoPipelineLoadOptions = PipelineLoadOptions & {
  /** Perturbed-attention guidance. Default false. */
  readonly enable_pag?: boolean;
};

/** What `from_pipe` of an AutoPipeline takes. `controlnet: null` goes back to the family without ControlNet. */
export type AutoPipelineFromPipeOptions = FromPipeOptions & {
  /** Whether to go to the family with perturbed-attention guidance, or to the one without. Default: stay. */
  readonly enable_pag?: boolean;
};

const cannotBeMade = "An AutoPipeline is not made itself: call its from_pretrained or from_pipe.";

/** What is to be made, and how the classes that do so are named: `StableDiffusion` + `ControlNet` + `Img2ImgPipeline`. */
interface Task {
  readonly name: string;
  readonly autoClass: string;
  readonly suffix: string;
  /** By family, the class for the task. */
  readonly classes: Readonly<Record<string, string>>;
}

const text2image: Task = {
  name: "text-to-image",
  autoClass: "AutoPipelineForText2Image",
  suffix: "Pipeline",
  classes: {
    "stable-diffusion": "StableDiffusionPipeline",
    "stable-diffusion-xl": "StableDiffusionXLPipeline",
    "stable-diffusion-controlnet": "StableDiffusionControlNetPipeline",
    "stable-diffusion-xl-controlnet": "StableDiffusionXLControlNetPipeline",
    lcm: "LatentConsistencyModelPipeline",
    "stable-diffusion-pag": "StableDiffusionPAGPipeline",
    "stable-diffusion-controlnet-pag": "StableDiffusionControlNetPAGPipeline",
    "stable-diffusion-xl-pag": "StableDiffusionXLPAGPipeline",
    "stable-diffusion-xl-controlnet-pag": "StableDiffusionXLControlNetPAGPipeline",
  },
};

const image2image: Task = {
  name: "image-to-image",
  autoClass: "AutoPipelineForImage2Image",
  suffix: "Img2ImgPipeline",
  classes: {
    "stable-diffusion": "StableDiffusionImg2ImgPipeline",
    "stable-diffusion-xl": "StableDiffusionXLImg2ImgPipeline",
    "stable-diffusion-controlnet": "StableDiffusionControlNetImg2ImgPipeline",
    "stable-diffusion-xl-controlnet": "StableDiffusionXLControlNetImg2ImgPipeline",
    lcm: "LatentConsistencyModelImg2ImgPipeline",
    "stable-diffusion-pag": "StableDiffusionPAGImg2ImgPipeline",
    "stable-diffusion-xl-pag": "StableDiffusionXLPAGImg2ImgPipeline",
    "stable-diffusion-xl-controlnet-pag": "StableDiffusionXLControlNetPAGImg2ImgPipeline",
  },
};

const inpainting: Task = {
  name: "inpainting",
  autoClass: "AutoPipelineForInpainting",
  suffix: "InpaintPipeline",
  classes: {
    "stable-diffusion": "StableDiffusionInpaintPipeline",
    "stable-diffusion-xl": "StableDiffusionXLInpaintPipeline",
    "stable-diffusion-controlnet": "StableDiffusionControlNetInpaintPipeline",
    "stable-diffusion-xl-controlnet": "StableDiffusionXLControlNetInpaintPipeline",
    "stable-diffusion-pag": "StableDiffusionPAGInpaintPipeline",
    "stable-diffusion-controlnet-pag": "StableDiffusionControlNetPAGInpaintPipeline",
    "stable-diffusion-xl-pag": "StableDiffusionXLPAGInpaintPipeline",
  },
};

/**
 * The name of the class that does `task` in the family of `className`.
 *
 * @throws ValueError when the family is not known, or has none for the task.
 */
function taskClassName(task: Task, className: string): string {
  const families = [text2image, image2image, inpainting].flatMap(({ classes }) => Object.entries(classes));
  const family = families.find(([, name]) => name === className)?.[0];
  const found = family === undefined ? undefined : task.classes[family];
  if (found !== undefined) return found;
  const known = [...new Set(Object.keys(task.classes))].join(", ");
  throw new ValueError(
    `AutoPipeline finds no pipeline for ${task.name} that belongs to ${className}` +
      (family === undefined ? `, whose family it does not know. There are: ${known}.` : ` (${family}).`),
    { className, field: "_class_name", found: family ?? className, expected: known },
  );
}

/** @throws UnsupportedModelError for a class that is not built. */
async function loadClass(task: Task, className: string): Promise<PipelineClass> {
  const { registry } = DiffusionPipeline;
  if (Object.hasOwn(registry, className)) return registry[className]!();
  throw new UnsupportedModelError(
    `${className}, which does ${task.name} here, is not built (yet). There are: ${Object.keys(registry).join(", ")}.`,
    { className, field: "_class_name", found: task.name, expected: Object.keys(registry).join(", ") },
  );
}

/** Puts a mark in front of the last part of a class's name: `StableDiffusion` + `PAG` + `Pipeline`. */
function marked(className: string, mark: string, suffix: string): string {
  return className.replace(suffix, `${mark}${suffix}`);
}

function fromPretrained(task: Task, from: SourceLike, options: AutoPipelineLoadOptions): Promise<AnyPipeline> {
  const lookUp = (name: string): Promise<PipelineClass> => loadClass(task, name);
  const load = (here: AutoPipelineLoadOptions): Promise<AnyPipeline> => loadHere(task, from, here);
  return loadWhere([task.autoClass, "from_pretrained"], from, options, lookUp, load);
}

/** @see Diffusers `AutoPipelineForText2Image.from_pretrained` and its like */
function loadHere(task: Task, from: SourceLike, options: AutoPipelineLoadOptions): Promise<AnyPipeline> {
  const { enable_pag = false, ...rest } = options;
  const { controlnet } = options;
  const choose = (index: ConfigDict): Promise<PipelineClass> => {
    let className = pipelineClassName(index, null);
    // A checkpoint for the task itself has its own ending; any other has the plain one.
    const suffix = className.includes(task.suffix) ? task.suffix : text2image.suffix;
    if (controlnet != null) {
      const isUnion = controlnet.constructor.name === "ControlNetUnionModel";
      className = marked(className, isUnion ? "ControlNetUnion" : "ControlNet", suffix);
    }
    if (enable_pag) className = marked(className, "PAG", suffix);
    return loadClass(task, taskClassName(task, className));
  };
  return loadPipeline(choose, from, rest) as Promise<DiffusionPipeline> as Promise<AnyPipeline>;
}

/** @see Diffusers `AutoPipelineForText2Image.from_pipe` and its like */
async function fromPipe(
  task: Task,
  pipeline: DiffusionPipeline,
  options: AutoPipelineFromPipeOptions,
): Promise<AnyPipeline> {
  if (!(pipeline instanceof DiffusionPipeline)) throw new TypeError("from_pipe makes a pipeline of another pipeline.");
  const { enable_pag, ...rest } = options;
  let className = taskClassName(task, pipeline.constructor.name);
  if (rest.controlnet !== undefined) {
    className = className.replace("ControlNet", "");
    const suffix = className.includes("PAG") ? `PAG${task.suffix}` : task.suffix;
    if (rest.controlnet !== null) className = marked(className, "ControlNet", suffix);
    else delete (rest as { controlnet?: unknown }).controlnet;
    className = taskClassName(task, className);
  }
  if (enable_pag !== undefined) {
    className = className.replace("PAG", "");
    if (enable_pag) className = marked(className, "PAG", task.suffix);
    className = taskClassName(task, className);
  }
  const cls = (await loadClass(task, className)) as PipelineClass & Pick<typeof DiffusionPipeline, "from_pipe">;
  return (await cls.from_pipe(pipeline, rest)) as AnyPipeline;
}

/**
 * Loads the text-to-image pipeline that belongs to a checkpoint, whatever pipeline the checkpoint was made for.
 *
 * @example
 * ```ts
 * const pipeline = await AutoPipelineForText2Image.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5");
 * const { images } = await pipeline("a cat");
 * const img2img = await AutoPipelineForImage2Image.from_pipe(pipeline);
 * ```
 * @see Diffusers `AutoPipelineForText2Image`
 */
export class AutoPipelineForText2Image {
  static readonly name: string = "AutoPipelineForText2Image";

  private constructor() {
    throw new TypeError(cannotBeMade);
  }

  /**
   * @throws ValueError for a checkpoint of no family that has the task, UnsupportedModelError for a class that is not built;
   * else as `DiffusionPipeline.from_pretrained`.
   */
  static from_pretrained(from: SourceLike, options: AutoPipelineLoadOptions = {}): Promise<AnyPipeline> {
    return fromPretrained(text2image, from, options);
  }

  /** A pipeline for the task, of another one's components. @throws as `from_pretrained`, and `DiffusionPipeline.from_pipe`. */
  static from_pipe(pipeline: DiffusionPipeline, options: AutoPipelineFromPipeOptions = {}): Promise<AnyPipeline> {
    return fromPipe(text2image, pipeline, options);
  }
}

/**
 * Loads the image-to-image pipeline that belongs to a checkpoint, whatever pipeline the checkpoint was made for.
 *
 * @see Diffusers `AutoPipelineForImage2Image`
 */
export class AutoPipelineForImage2Image {
  static readonly name: string = "AutoPipelineForImage2Image";

  private constructor() {
    throw new TypeError(cannotBeMade);
  }

  /** @throws as `AutoPipelineForText2Image.from_pretrained`. */
  static from_pretrained(from: SourceLike, options: AutoPipelineLoadOptions = {}): Promise<AnyPipeline> {
    return fromPretrained(image2image, from, options);
  }

  /** A pipeline for the task, of another one's components. @throws as `from_pretrained`, and `DiffusionPipeline.from_pipe`. */
  static from_pipe(pipeline: DiffusionPipeline, options: AutoPipelineFromPipeOptions = {}): Promise<AnyPipeline> {
    return fromPipe(image2image, pipeline, options);
  }
}

/**
 * Loads the inpainting pipeline that belongs to a checkpoint, whatever pipeline the checkpoint was made for.
 *
 * @see Diffusers `AutoPipelineForInpainting`
 */
export class AutoPipelineForInpainting {
  static readonly name: string = "AutoPipelineForInpainting";

  private constructor() {
    throw new TypeError(cannotBeMade);
  }

  /** @throws as `AutoPipelineForText2Image.from_pretrained`. */
  static from_pretrained(from: SourceLike, options: AutoPipelineLoadOptions = {}): Promise<AnyPipeline> {
    return fromPretrained(inpainting, from, options);
  }

  /** A pipeline for the task, of another one's components. @throws as `from_pretrained`, and `DiffusionPipeline.from_pipe`. */
  static from_pipe(pipeline: DiffusionPipeline, options: AutoPipelineFromPipeOptions = {}): Promise<AnyPipeline> {
    return fromPipe(inpainting, pipeline, options);
  }
}
