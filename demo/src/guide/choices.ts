import { schedulerRegistry } from "@diffusers-web/pipelines";
import { create } from "../dom.ts";
import { swatch } from "./chart.ts";
import { optionsOf } from "./curves.ts";
import {
  type Choice,
  MOST_CHOICES,
  type SigmaSpacing,
  shortName,
  type TimestepSpacing,
  timestepSpacings,
} from "./state.ts";

interface Row {
  readonly element: HTMLElement;
  readonly scheduler: HTMLSelectElement;
  readonly options: HTMLElement;
  readonly refusal: HTMLElement;
}

/** The list of chosen schedulers: which class, which options, and what the class says when it refuses them. */
export class Choices {
  private readonly list: HTMLElement;
  private readonly add: HTMLButtonElement;
  private readonly changed: (choices: readonly Choice[]) => void;
  private choices: readonly Choice[] = [];
  private rows: Row[] = [];

  constructor(list: HTMLElement, add: HTMLButtonElement, changed: (choices: readonly Choice[]) => void) {
    this.list = list;
    this.add = add;
    this.changed = changed;
    add.addEventListener("click", () => {
      const shown = new Set(this.choices.map(({ name }) => name));
      const names = Object.keys(schedulerRegistry);
      this.write([...this.choices, { name: names.find((name) => !shown.has(name)) ?? names[0]! }]);
      this.rows.at(-1)?.scheduler.focus();
      this.changed(this.choices);
    });
  }

  /** Shows these; says nothing of it to the page. */
  write(choices: readonly Choice[]): void {
    this.choices = choices;
    this.rows = choices.map((choice, i) => this.row(choice, i));
    this.list.replaceChildren(...this.rows.map(({ element }) => element));
    this.add.disabled = choices.length >= MOST_CHOICES;
  }

  /** Writes beside each name why there is no curve of it. */
  refuse(messages: readonly (string | undefined)[]): void {
    for (const [i, { element, refusal }] of this.rows.entries()) {
      refusal.textContent = messages[i] ?? "";
      element.classList.toggle("refused", messages[i] !== undefined);
    }
  }

  private change(i: number, choice: Choice): void {
    this.choices = this.choices.with(i, choice);
    this.changed(this.choices);
  }

  private remove(i: number): void {
    this.write(this.choices.filter((_, k) => k !== i));
    const next = this.rows[Math.min(i, this.rows.length - 1)];
    (next?.scheduler ?? this.add).focus();
    this.changed(this.choices);
  }

  private row(choice: Choice, i: number): Row {
    const element = create("li", { className: "choice" });
    const options = create("div", { className: "choice-options" });
    const refusal = create("p", { className: "refusal" });
    refusal.role = "status";
    const names = Object.keys(schedulerRegistry);
    const all = names.includes(choice.name) ? names : [choice.name, ...names];
    const scheduler = select(
      `Scheduler ${i + 1}`,
      all.map((name) => [name, shortName(name)]),
      choice.name,
      (name) => {
        // What the other class takes as well stays.
        const { sigmas, spacing } = optionsOf(name);
        const { sigmas: chosen, spacing: spaced } = this.choices[i]!;
        this.change(i, {
          name,
          sigmas: chosen !== undefined && sigmas.includes(chosen) ? chosen : undefined,
          spacing: spacing ? spaced : undefined,
        });
        options.replaceChildren(...this.options(i));
      },
    );
    const remove = create("button", { type: "button", className: "remove", ariaLabel: `Remove scheduler ${i + 1}` });
    remove.title = "Remove";
    remove.append(cross());
    remove.addEventListener("click", () => this.remove(i));
    options.append(...this.options(i));
    element.append(swatch(i), scheduler, remove, options, refusal);
    return { element, scheduler, options, refusal };
  }

  /** The menus for what this class lets one choose. */
  private options(i: number): HTMLElement[] {
    const { name, sigmas, spacing } = this.choices[i]!;
    const offered = optionsOf(name);
    const menus: HTMLElement[] = [];
    if (offered.sigmas.length > 0) {
      const sigmaNames = offered.sigmas.map((one) => [one, one === "karras" ? "Karras" : one] as const);
      const menu = select(
        `Sigmas of scheduler ${i + 1}`,
        [["", "default sigmas"], ...sigmaNames],
        sigmas ?? "",
        (value) => {
          this.change(i, { ...this.choices[i]!, sigmas: value === "" ? undefined : (value as SigmaSpacing) });
        },
      );
      menus.push(menu);
    }
    if (offered.spacing) {
      const spacings = timestepSpacings.map((one) => [one, one] as const);
      const menu = select(
        `Timestep spacing of scheduler ${i + 1}`,
        [["", "default spacing"], ...spacings],
        spacing ?? "",
        (value) => {
          this.change(i, { ...this.choices[i]!, spacing: value === "" ? undefined : (value as TimestepSpacing) });
        },
      );
      menus.push(menu);
    }
    return menus;
  }
}

function select(
  name: string,
  options: readonly (readonly [value: string, text: string])[],
  value: string,
  changed: (value: string) => void,
): HTMLSelectElement {
  const element = create("select", { ariaLabel: name });
  element.append(...options.map(([key, text]) => create("option", { value: key, textContent: text })));
  element.value = value;
  element.addEventListener("change", () => changed(element.value));
  return element;
}

function cross(): SVGSVGElement {
  const template = create("template");
  template.innerHTML =
    '<svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><path d="M2 2l8 8M10 2l-8 8" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>';
  return template.content.firstElementChild as SVGSVGElement;
}
