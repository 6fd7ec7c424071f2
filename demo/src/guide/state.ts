import { schedulerRegistry } from "@diffusers-web/pipelines";

export const sigmaSpacings = ["karras", "exponential", "beta"] as const;
export const timestepSpacings = ["linspace", "leading", "trailing"] as const;

export type SigmaSpacing = (typeof sigmaSpacings)[number];
export type TimestepSpacing = (typeof timestepSpacings)[number];

/** A scheduler to plot, and what its config is to differ in. */
export interface Choice {
  /** Its class's name. */
  readonly name: string;
  readonly sigmas?: SigmaSpacing | undefined;
  readonly spacing?: TimestepSpacing | undefined;
}

/** All that the visitor can set, and all that a link to a plot holds. */
export interface State {
  readonly choices: readonly Choice[];
  readonly steps: number;
  /** Which config the classes are built from. */
  readonly base: "sd" | "own";
  /** What runs of different lengths are laid side by side by. */
  readonly across: "step" | "share";
  readonly log: boolean;
}

/** As many as there are colours. */
export const MOST_CHOICES = 8;
export const MOST_STEPS = 2000;

const wanted: readonly Choice[] = [
  { name: "EulerDiscreteScheduler" },
  { name: "DPMSolverMultistepScheduler", sigmas: "karras" },
  { name: "DDIMScheduler" },
  { name: "LCMScheduler" },
];

export const defaultState: State = {
  choices: wanted.filter(({ name }) => Object.hasOwn(schedulerRegistry, name)),
  steps: 20,
  base: "sd",
  across: "step",
  log: false,
};

/** "EulerDiscrete" */
export function shortName(name: string): string {
  return name.replace(/Scheduler$/, "");
}

/** "DPMSolverMultistep, Karras, trailing" */
export function label({ name, sigmas, spacing }: Choice): string {
  const shown = sigmas === "karras" ? "Karras" : sigmas;
  return [shortName(name), shown, spacing].filter((part) => part !== undefined).join(", ");
}

/** `#steps=30&curve=EulerDiscrete&curve=DPMSolverMultistep.karras`: what differs from the default, and each curve. */
export function toHash(state: State): string {
  const parameters = new URLSearchParams();
  for (const field of ["steps", "base", "across"] as const) {
    if (state[field] !== defaultState[field]) parameters.set(field, String(state[field]));
  }
  if (state.log) parameters.set("log", "1");
  for (const { name, sigmas, spacing } of state.choices) {
    parameters.append("curve", [shortName(name), sigmas, spacing].filter((part) => part !== undefined).join("."));
  }
  return `#${parameters}`;
}

/** The state of such a link. What it does not name, or names wrongly, is as by default; unknown schedulers are kept. */
export function fromHash(hash: string): State {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const curves = parameters.getAll("curve").slice(0, MOST_CHOICES);
  const steps = Number(parameters.get("steps") ?? Number.NaN);
  return {
    choices: curves.length > 0 ? curves.map(choiceOf) : defaultState.choices,
    steps: isSteps(steps) ? steps : defaultState.steps,
    base: parameters.get("base") === "own" ? "own" : defaultState.base,
    across: parameters.get("across") === "share" ? "share" : defaultState.across,
    log: parameters.get("log") === "1",
  };
}

export function isSteps(steps: number): boolean {
  return Number.isInteger(steps) && steps >= 1 && steps <= MOST_STEPS;
}

function choiceOf(curve: string): Choice {
  const [name = "", ...options] = curve.split(".");
  return {
    name: `${shortName(name)}Scheduler`,
    sigmas: sigmaSpacings.find((one) => options.includes(one)),
    spacing: timestepSpacings.find((one) => options.includes(one)),
  };
}
