import { byId, create } from "../dom.ts";
import { examples, firstPrompt, surprise } from "../prompts.ts";
import type { DeviceChoice, Settings } from "../protocol.ts";

/** The model card's recommendations. */
const recommended = { steps: 20, guidance: 2, scheduler: "DPMSolverMultistepScheduler", negativePrompt: "" } as const;

export interface FormEvents {
  generate(): void;
  cancel(): void;
  /** The visitor has begun to use the form: what takes long may start. */
  intent(): void;
  seed(seed: number): void;
  device(choice: DeviceChoice): void;
}

/** The form: prompt, settings, Generate and Cancel. */
export class Form {
  private readonly events: FormEvents;
  private readonly prompt = byId("prompt", HTMLTextAreaElement);
  private readonly negative = byId("negative", HTMLInputElement);
  private readonly seed = byId("seed", HTMLInputElement);
  private readonly keepSeed = byId("keep-seed", HTMLInputElement);
  private readonly steps = byId("steps", HTMLInputElement);
  private readonly guidance = byId("guidance", HTMLInputElement);
  private readonly scheduler = byId("scheduler", HTMLSelectElement);
  private readonly device = byId("device", HTMLSelectElement);
  private readonly settings = byId("settings", HTMLDetailsElement);
  private readonly generate = byId("generate", HTMLButtonElement);
  private readonly cancel = byId("cancel", HTMLButtonElement);
  private savedScheduler: string = recommended.scheduler;
  /** The seed in the field has made a picture already. */
  private seedUsed = false;

  constructor(events: FormEvents, device: DeviceChoice) {
    this.events = events;
    this.prompt.value = firstPrompt;
    this.device.value = device;
    this.offerSchedulers([recommended.scheduler]);
    this.fillExamples();
    this.listen();
    this.showValues();
  }

  /** What the form holds. Draws a new seed when the one shown is used up and not to be kept. */
  read(): Settings {
    const typed = Number(this.seed.value);
    const valid = this.seed.value.trim() !== "" && Number.isSafeInteger(typed) && typed >= 0;
    if (!valid || (this.seedUsed && !this.keepSeed.checked)) this.drawSeed();
    return {
      prompt: this.prompt.value.trim(),
      negativePrompt: this.negative.value.trim(),
      seed: Number(this.seed.value),
      steps: Number(this.steps.value),
      guidance: Number(this.guidance.value),
      scheduler: this.scheduler.value,
    };
  }

  /** Puts a picture's settings back. Its seed is kept, so that Generate gives that picture again. */
  write(settings: Settings): void {
    this.prompt.value = settings.prompt;
    this.negative.value = settings.negativePrompt;
    this.seed.value = String(settings.seed);
    this.steps.value = String(settings.steps);
    this.guidance.value = String(settings.guidance);
    this.scheduler.value = settings.scheduler;
    this.keepSeed.checked = true;
    this.showValues();
    this.events.seed(settings.seed);
  }

  /** A picture came of that seed: the next one gets another, unless it is to be kept. */
  useSeed(seed: number): void {
    this.seedUsed = this.seedShown === seed;
  }

  get seedShown(): number {
    return Number(this.seed.value);
  }

  get deviceChoice(): DeviceChoice {
    return this.device.value as DeviceChoice;
  }

  setDevice(choice: DeviceChoice): void {
    this.device.value = choice;
  }

  focusPrompt(): void {
    this.prompt.focus();
  }

  /** While a picture is being made Cancel stands where Generate was, and keeps the focus if that had it. */
  setBusy(busy: boolean, cancelling = false): void {
    const [hide, show] = busy ? [this.generate, this.cancel] : [this.cancel, this.generate];
    const focused = document.activeElement === hide;
    show.hidden = false;
    hide.hidden = true;
    if (focused) show.focus();
    this.cancel.disabled = cancelling;
    this.cancel.textContent = cancelling ? "Cancelling" : "Cancel";
  }

  /** Lists the schedulers that the package exports; the model's own is marked. */
  offerSchedulers(names: readonly string[], saved: string = this.savedScheduler): void {
    const chosen = this.scheduler.value;
    const untouched = chosen === "" || chosen === this.savedScheduler;
    this.savedScheduler = saved;
    const all = names.includes(saved) ? names : [saved, ...names];
    this.scheduler.replaceChildren(
      ...all.map((name) => {
        const label = name.replace(/Scheduler$/, "");
        return create("option", { value: name, textContent: name === saved ? `${label} (default)` : label });
      }),
    );
    this.scheduler.value = !untouched && all.includes(chosen) ? chosen : saved;
    this.showValues();
  }

  private fillExamples(): void {
    const items = examples.map(({ label, prompt, colour }) => {
      const button = create("button", { type: "button", className: "chip", title: prompt, ariaLabel: prompt });
      if (colour !== undefined) {
        const dot = create("i");
        dot.style.background = `var(--${colour})`;
        button.append(dot);
      }
      button.append(label);
      button.addEventListener("click", () => this.suggest(prompt));
      const item = create("li");
      item.append(button);
      return item;
    });
    byId("examples", HTMLUListElement).append(...items);
  }

  private suggest(text: string): void {
    this.prompt.value = text;
    this.events.intent();
  }

  private drawSeed(): void {
    this.seed.value = String(Math.floor(Math.random() * 1_000_000));
    this.seedUsed = false;
    this.events.seed(Number(this.seed.value));
  }

  private listen(): void {
    const form = byId("form", HTMLFormElement);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.generate.hidden) this.events.generate();
    });
    form.addEventListener("input", () => {
      this.showValues();
      this.events.intent();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.cancel.hidden && !this.cancel.disabled) this.events.cancel();
    });
    this.cancel.addEventListener("click", () => this.events.cancel());
    byId("surprise", HTMLButtonElement).addEventListener("click", () => this.suggest(surprise()));
    byId("dice", HTMLButtonElement).addEventListener("click", () => this.drawSeed());
    this.seed.addEventListener("input", () => {
      this.seed.value = this.seed.value.replace(/\D+/g, "");
      this.seedUsed = false;
      // A seed that somebody typed is one to stay.
      this.keepSeed.checked = this.seed.value !== "";
      this.events.seed(Number(this.seed.value));
    });
    this.device.addEventListener("change", () => this.events.device(this.deviceChoice));
    byId("reset", HTMLButtonElement).addEventListener("click", () => {
      this.steps.value = String(recommended.steps);
      this.guidance.value = String(recommended.guidance);
      this.negative.value = recommended.negativePrompt;
      this.scheduler.value = this.savedScheduler;
      this.showValues();
    });
    // Folded on a narrow screen, where the picture comes next; open where there is room beside it.
    const wide = matchMedia("(min-width: 56rem)");
    this.settings.open = wide.matches;
    wide.addEventListener("change", () => {
      this.settings.open = wide.matches;
    });
  }

  private showValues(): void {
    byId("steps-value", HTMLOutputElement).value = this.steps.value;
    byId("guidance-value", HTMLOutputElement).value = this.guidance.value;
    const scheduler = this.scheduler.value.replace(/(Scheduler)$/, "");
    byId("settings-summary", HTMLElement).textContent =
      `${this.steps.value} steps, guidance ${this.guidance.value}, ${scheduler}`;
  }
}
