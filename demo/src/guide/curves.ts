import { schedulerRegistry } from "@diffusers-web/pipelines";
import type { Choice, SigmaSpacing, State } from "./state.ts";
import { sigmaSpacings } from "./state.ts";

/** What a scheduler lays out for a run. */
export interface Curve {
  readonly timesteps: readonly number[];
  /** The noise level at each timestep, and where the class has it that which the run ends at. Some classes have none. */
  readonly sigmas: readonly number[] | undefined;
}

type SchedulerClass = (typeof schedulerRegistry)[string];

/** What the classes have beside what they share. */
interface Extras {
  readonly sigmas?: ArrayLike<number> | null;
  readonly alphas_cumprod?: ArrayLike<number>;
  readonly schedule?: ArrayLike<number> | null;
  set_sigmas?(num_inference_steps: number): void;
}

/** `scheduler.config` of Stable Diffusion 1.x, as its repository has it. */
const stableDiffusion = {
  _class_name: "PNDMScheduler",
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  trained_betas: null,
  clip_sample: false,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
};

function classOf(name: string): SchedulerClass {
  const found = Object.hasOwn(schedulerRegistry, name) ? schedulerRegistry[name] : undefined;
  if (found === undefined) throw new TypeError(`The package has no ${name}.`);
  return found;
}

/** What the class lets one choose about its sigmas, and whether it takes a timestep spacing. */
export function optionsOf(name: string): { readonly sigmas: readonly SigmaSpacing[]; readonly spacing: boolean } {
  const fields = Object.hasOwn(schedulerRegistry, name) ? classOf(name).config_defaults : {};
  const sigmas = sigmaSpacings.filter((one) =>
    "sigma_schedule" in fields ? one !== "beta" : `use_${one}_sigmas` in fields,
  );
  return { sigmas, spacing: "timestep_spacing" in fields };
}

/** The config fields that a choice sets. */
function overrides({ sigmas, spacing }: Choice, fields: object): Record<string, unknown> {
  return {
    ...(sigmas !== undefined &&
      ("sigma_schedule" in fields ? { sigma_schedule: sigmas } : { [`use_${sigmas}_sigmas`]: true })),
    ...(spacing !== undefined && { timestep_spacing: spacing }),
  };
}

/** Classes without betas have no use for those of Stable Diffusion: they start from their own defaults. */
function fromPipeline(base: State["base"], fields: object): boolean {
  return base === "sd" && "beta_start" in fields;
}

/** SCM has a timestep between for runs of two steps only, and wants to be told. */
function timestepOptions(cls: SchedulerClass, steps: number): { intermediate_timesteps: null } | undefined {
  const asks = cls.set_timesteps_options.includes("intermediate_timesteps") && steps !== 2;
  return asks ? { intermediate_timesteps: null } : undefined;
}

/** @throws What the class throws when it refuses the config or the number of steps. */
export function curveOf(choice: Choice, { base, steps }: Pick<State, "base" | "steps">): Curve {
  const cls = classOf(choice.name);
  const set = overrides(choice, cls.config_defaults);
  const scheduler = fromPipeline(base, cls.config_defaults)
    ? cls.from_config(stableDiffusion, set)
    : new cls(set as never);
  scheduler.set_timesteps(steps, timestepOptions(cls, steps));
  (scheduler as Extras).set_sigmas?.(steps);
  const timesteps = Array.from(scheduler.timesteps);
  return { timesteps, sigmas: sigmasOf(scheduler as Extras, timesteps) };
}

function sigmasOf({ sigmas, schedule, alphas_cumprod }: Extras, timesteps: readonly number[]): number[] | undefined {
  // The classes that take two steps between noise levels have some of theirs twice, or more at the end than are used.
  if (sigmas) return Array.from(sigmas).slice(0, timesteps.length + 1);
  if (schedule) return timesteps.map((t) => schedule[t]!);
  if (alphas_cumprod) return timesteps.map((t) => Math.sqrt((1 - alphas_cumprod[t]!) / alphas_cumprod[t]!));
  return undefined;
}

/** The lines of TypeScript that make the scheduler, and where no pipeline does it, lays out its run. */
export function codeOf(choice: Choice, { base, steps }: Pick<State, "base" | "steps">): string[] {
  const { name } = choice;
  const cls = classOf(name);
  const set = literal(overrides(choice, cls.config_defaults));
  if (fromPipeline(base, cls.config_defaults)) {
    const more = set === "" ? "" : `, ${set}`;
    return [`pipeline.scheduler = ${name}.from_config(pipeline.scheduler.config${more});`];
  }
  const options = timestepOptions(cls, steps);
  return [
    `const scheduler = new ${name}(${set});`,
    `scheduler.set_timesteps(${steps}${options === undefined ? "" : `, ${literal(options)}`});`,
    ...("set_sigmas" in cls.prototype ? [`scheduler.set_sigmas(${steps});`] : []),
  ];
}

/** `{ use_karras_sigmas: true }`; nothing for an object without fields. */
function literal(fields: object): string {
  const parts = Object.entries(fields).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
  return parts.length === 0 ? "" : `{ ${parts.join(", ")} }`;
}
