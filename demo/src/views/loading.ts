import type { LoadProgress } from "@diffusers-web/pipelines";
import { byId, create } from "../dom.ts";
import { bytes } from "../format.ts";

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
  private readonly title = byId("loading-title", HTMLParagraphElement);
  private readonly list = byId("loading-parts", HTMLUListElement);
  private readonly parts = new Map<string, Part>();

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
    this.showTitle();
  }

  update(progress: LoadProgress): void {
    if (progress.phase === "resolve") return;
    const name = component(progress.file);
    const part = this.parts.get(name) ?? this.addPart(name);
    if (progress.phase === "download") {
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
  }

  /** Bytes that have come, over all files. */
  get loadedBytes(): number {
    let sum = 0;
    for (const part of this.parts.values()) for (const file of part.files.values()) sum += file.loaded;
    return sum;
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
    const count = this.loadedBytes;
    this.title.textContent = count === 0 ? "Preparing the model" : `Loading the model, ${bytes(count)} so far`;
  }
}

/** "unet/diffusion_pytorch_model.safetensors" belongs to the UNet; a file of no folder to the pipeline. */
function component(file: string): string {
  const parts = file.split("/");
  const name = parts.length > 1 ? parts.at(-2)! : /\.\w+$/.test(file) ? "pipeline" : file;
  return name.replaceAll("_", " ");
}
