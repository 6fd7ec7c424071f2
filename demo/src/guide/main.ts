import { byId, create } from "../dom.ts";
import { Chart, type Line, swatch } from "./chart.ts";
import { Choices } from "./choices.ts";
import { type Curve, codeOf, curveOf } from "./curves.ts";
import { factsOf } from "./facts.ts";
import { extent, linearScale, logScale, type Scale, shown } from "./scale.ts";
import { type Choice, defaultState, fromHash, isSteps, label, type State, toHash } from "./state.ts";

/** A choice with what its class made of it: a curve, or the reason why there is none. */
interface Result {
  /** All that it depends on. */
  readonly key: string;
  readonly choice: Choice;
  readonly curve?: Curve;
  readonly refusal?: string;
}

const steps = byId("steps", HTMLInputElement);
const stepsNumber = byId("steps-number", HTMLInputElement);
const base = byId("base", HTMLSelectElement);
const across = byId("across", HTMLSelectElement);
const log = byId("log", HTMLInputElement);
const scrub = byId("scrub", HTMLInputElement);
const scrubValue = byId("scrub-value", HTMLOutputElement);
const choices = new Choices(byId("choices", HTMLElement), byId("add", HTMLButtonElement), (changed) =>
  update({ choices: changed }),
);
const sigmaChart = new Chart(byId("sigma-chart", SVGSVGElement), byId("sigma-legend", HTMLElement), point);
const timestepChart = new Chart(byId("timestep-chart", SVGSVGElement), byId("timestep-legend", HTMLElement), point);

let state = fromHash(location.hash);
let results: readonly Result[] = [];
/** The end of the x axis: the most steps that a curve has, or 1 for shares of a run. */
let end = 1;

listen();
show();
document.body.classList.remove("waiting");

function listen(): void {
  steps.addEventListener("input", () => update({ steps: Number(steps.value) }));
  stepsNumber.addEventListener("input", () => {
    const typed = stepsNumber.valueAsNumber;
    if (isSteps(typed)) update({ steps: typed });
  });
  // What cannot be a number of steps goes back to what is shown.
  stepsNumber.addEventListener("change", () => {
    stepsNumber.value = String(state.steps);
  });
  base.addEventListener("change", () => update({ base: base.value === "own" ? "own" : "sd" }));
  across.addEventListener("change", () => update({ across: across.value === "share" ? "share" : "step" }));
  log.addEventListener("change", () => update({ log: log.checked }));
  scrub.addEventListener("input", mark);
  byId("reset", HTMLButtonElement).addEventListener("click", () => {
    update(defaultState);
    show();
  });
  addEventListener("hashchange", () => {
    state = fromHash(location.hash);
    show();
  });
}

/** A change that the visitor made: drawn, and written into the address. */
function update(change: Partial<State>): void {
  state = { ...state, ...change };
  history.replaceState(null, "", toHash(state));
  draw();
}

/** The state in every control, and drawn. */
function show(): void {
  base.value = state.base;
  across.value = state.across;
  log.checked = state.log;
  choices.write(state.choices);
  draw();
}

function draw(): void {
  steps.value = String(state.steps);
  if (stepsNumber.valueAsNumber !== state.steps) stepsNumber.value = String(state.steps);
  results = state.choices.map(evaluate);
  choices.refuse(results.map(({ refusal }) => refusal));
  drawCharts();
  byId("cards", HTMLElement).replaceChildren(...cards());
}

/** Computed, unless the plot shows it already. */
function evaluate(choice: Choice): Result {
  const key = JSON.stringify([choice, state.base, state.steps]);
  const before = results.find((result) => result.key === key);
  if (before !== undefined) return before;
  try {
    return { key, choice, curve: curveOf(choice, state) };
  } catch (error) {
    return { key, choice, refusal: (error as Error).message };
  }
}

function drawCharts(): void {
  const longest = Math.max(1, ...results.map(({ curve }) => curve?.timesteps.length ?? 1));
  end = state.across === "share" ? 1 : longest;
  scrub.max = String(state.across === "share" ? 100 : longest);
  const x = xAxis();
  const sigmas = results.map((result, i) => line(result, i, result.curve?.sigmas, "has no sigmas"));
  const timesteps = results.map((result, i) => line(result, i, result.curve?.timesteps));
  const drawn = results.filter(({ curve }) => curve !== undefined).length;
  const of = `of ${drawn} scheduler${drawn === 1 ? "" : "s"}, ${state.steps} steps`;
  const values = sigmas.flatMap(({ points }) => points.map(({ y }) => y));
  const sigmaAxis = state.log ? logScale(values) : linearScale(extent([0, ...values]), 6, true);
  sigmaChart.draw(sigmas, { x, y: sigmaAxis }, `Sigmas ${of}`);
  const times = timesteps.flatMap(({ points }) => points.map(({ y }) => y));
  timestepChart.draw(timesteps, { x, y: linearScale(extent(times), 6, true) }, `Timesteps ${of}`);
  mark();
}

function xAxis(): Scale {
  if (state.across === "step") {
    const { at, ticks } = linearScale([0, end], 8);
    return { at, ticks: ticks.filter(({ value }) => Number.isInteger(value)) };
  }
  const { at } = linearScale([0, 1], 1);
  return { at, ticks: [0, 0.25, 0.5, 0.75, 1].map((value) => ({ value, text: `${100 * value} %` })) };
}

function line({ choice, curve, refusal }: Result, colour: number, values?: readonly number[], none = ""): Line {
  const last = state.across === "share" ? (curve?.timesteps.length ?? 1) : 1;
  return {
    label: label(choice),
    colour,
    points: (values ?? []).map((y, i) => ({ x: i / last, y })),
    note: refusal !== undefined ? "refused" : values === undefined ? none : undefined,
  };
}

/** The visitor points into a chart, from 0 at its left end to 1. */
function point(x: number): void {
  scrub.value = String(Math.round(x * Number(scrub.max)));
  mark();
}

/** Marks in both charts where the handle below them is. */
function mark(): void {
  const at = Number(scrub.value);
  const indices = results.map(({ curve }) => {
    if (curve === undefined) return undefined;
    return state.across === "share" ? Math.round((at / 100) * curve.timesteps.length) : at;
  });
  sigmaChart.mark(indices);
  timestepChart.mark(indices);
  scrubValue.value = state.across === "share" ? `${at} %` : String(at);
  const values = results.map(({ choice, curve }, i) => {
    const [sigma, timestep] = [curve?.sigmas?.[indices[i]!], curve?.timesteps[indices[i]!]];
    return `${label(choice)}: sigma ${shown(sigma)}, timestep ${shown(timestep)}`;
  });
  scrub.setAttribute("aria-valuetext", `${scrubValue.value}. ${values.join("; ")}`);
}

/** One card for each class that is chosen, with its curves. */
function cards(): HTMLElement[] {
  const names = [...new Set(results.map(({ choice }) => choice.name))];
  return names.flatMap((name) => {
    const facts = factsOf(name);
    const runs = results.flatMap((result, i) => (result.choice.name === name ? runOf(result, i) : []));
    if (facts === undefined && runs.length === 0) return [];
    const item = create("li", { className: "card" });
    item.append(create("h3", { textContent: name }), ...(facts === undefined ? [] : [facts]), ...runs);
    return [item];
  });
}

/** What a curve's class laid out, and the code that makes it. */
function runOf({ choice, curve }: Result, colour: number): HTMLElement[] {
  if (curve === undefined) return [];
  const { timesteps, sigmas } = curve;
  const ends = (values: readonly number[]): string => `${shown(values[0])} to ${shown(values.at(-1))}`;
  const said = [`${timesteps.length} timesteps, ${ends(timesteps)}`];
  if (sigmas !== undefined) said.push(`sigma ${ends(sigmas)}`);
  const run = create("p", { className: "run" });
  run.append(swatch(colour), create("b", { textContent: label(choice) }), ` ${said.join("; ")}`);
  const code = create("pre");
  code.append(...codeOf(choice, state).map(codeLine));
  return [run, code];
}

/** A line of code that may break after a parenthesis, and where it is narrow before the method. */
function codeLine(text: string): HTMLElement {
  const line = create("code");
  for (const part of text.split(/(?<=\()|(?=\.from_config)/)) line.append(part, create("wbr"));
  return line;
}
