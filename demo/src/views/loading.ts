import type { LoadProgress } from "@diffusers-web/pipelines";
import { byId, create } from "../dom.ts";
import { bytes, timeLeft } from "../format.ts";

/** Milliseconds between two changes of the speed and the time left: more often nobody could read them. */
const PACE_INTERVAL = 500;

/** What each phase of a load is called, in the order in which it happens. */
const phases = {
  download: "downloading",
  verify: "checking",
  build: "building",
  upload: "uploading",
  compile: "compiling",
} as const satisfies Record<Exclude<LoadProgress["phase"], "resolve">, string>;

interface Part {
  readonly row: HTMLLIElement;
  readonly text: HTMLSpanElement;
  readonly bar: HTMLProgressElement;
  readonly files: Map<string, { loaded: number; total: number }>;
}

/** The list over the stage while a model loads: a row for each component, with the bytes that have come. */
export class Loading {
  private readonly panel = byId("loading", HTMLDivElement);
  private readonly title = create("span");
  /** Its line is there from the start, so that nothing moves when it is filled. */
  private readonly pace = create("span", { className: "loading-pace" });
  private readonly list = byId("loading-parts", HTMLUListElement);
  private readonly parts = new Map<string, Part>();
  private loadedBytes = 0;
  /** Of the whole load; undefined where only the files so far are known. */
  private totalBytes: number | undefined;
  private paceTime = 0;

  constructor() {
    byId("loading-title", HTMLParagraphElement).replaceChildren(this.title, this.pace);
  }

  /** Shown from here on; what came before (while nobody waited) stays in the list. */
  show(): void {
    this.panel.hidden = false;
    this.showTitle();
  }

  hide(): void {
    this.panel.hidden = true;
  }

  /** Another load begins. */
  clear(): void {
    this.parts.clear();
    this.list.replaceChildren();
    this.loadedBytes = 0;
    this.totalBytes = undefined;
    this.pace.textContent = "";
    this.showTitle();
  }

  update(progress: LoadProgress): void {
    if (progress.phase === "resolve") return;
    const name = component(progress.file);
    const part = this.parts.get(name) ?? this.addPart(name);
    if (progress.phase === "download") {
      this.loadedBytes = progress.loaded_bytes;
      if (progress.seconds_left !== undefined) this.totalBytes = progress.total_bytes;
      part.files.set(progress.file, progress);
      const files = [...part.files.values()];
      const loaded = files.reduce((sum, file) => sum + file.loaded, 0);
      const total = files.reduce((sum, file) => sum + Math.max(file.total, file.loaded), 0);
      part.bar.max = Math.max(1, total);
      part.bar.value = loaded;
      // A server that compresses does not say how much will come: the bar then tells no share.
      if (progress.total === 0) part.bar.removeAttribute("value");
      part.text.textContent = loaded < total ? `${bytes(loaded)} of ${bytes(total)}` : bytes(loaded);
    } else {
      part.text.textContent = phases[progress.phase];
      if (!part.bar.hasAttribute("value")) part.bar.value = part.bar.max;
      if (progress.total > 0) {
        part.bar.max = progress.total;
        part.bar.value = progress.loaded;
      }
    }
    part.row.dataset["phase"] = progress.phase;
    this.showTitle();
    this.showPace(progress);
  }

  private addPart(name: string): Part {
    const row = create("li");
    const text = create("span", { className: "part-state" });
    const bar = create("progress", { max: 1, value: 0, ariaLabel: name });
    row.append(create("span", { className: "part-name", textContent: name }), text, bar);
    this.list.append(row);
    const part: Part = { row, text, bar, files: new Map() };
    this.parts.set(name, part);
    return part;
  }

  private showTitle(): void {
    const { loadedBytes: loaded, totalBytes: total } = this;
    const title = `Loading the model, ${bytes(loaded)} ${total === undefined ? "so far" : `of ${bytes(total)}`}`;
    this.title.textContent = loaded === 0 ? "Preparing the model" : title;
  }

  private showPace({ phase, speed, seconds_left: left }: LoadProgress): void {
    if (phase !== "download") {
      this.pace.textContent = "";
      return;
    }
    const now = performance.now();
    if (speed === undefined || now - this.paceTime < PACE_INTERVAL) return;
    this.paceTime = now;
    this.pace.textContent = `${bytes(speed)}/s${left === undefined ? "" : `, ${timeLeft(left * 1000)}`}`;
  }
}

/** "unet/diffusion_pytorch_model.safetensors" belongs to the UNet; a file of no folder to the pipeline. */
function component(file: string): string {
  const parts = file.split("/");
  const name = parts.length > 1 ? parts.at(-2)! : /\.\w+$/.test(file) ? "pipeline" : file;
  return name.replaceAll("_", " ");
}
