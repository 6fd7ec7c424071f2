import { byId, create } from "../dom.ts";
import type { Frame } from "../protocol.ts";

/** What the stage shows, for the stylesheet. */
export type StageState = "idle" | "loading" | "running" | "done";

/** The picture, large, and the strip below it: steps done while it forms, then a way back through them. */
export class Stage {
  private readonly stage = byId("stage", HTMLDivElement);
  private readonly canvas = byId("canvas", HTMLCanvasElement);
  private readonly glow = byId("glow", HTMLCanvasElement);
  private readonly ticks = byId("ticks", HTMLDivElement);
  private readonly scrub = byId("scrub", HTMLInputElement);
  private readonly smoothButton = byId("smooth", HTMLButtonElement);
  /** The shown frame at its own size. */
  private readonly source = document.createElement("canvas");
  private frames: readonly Frame[] = [];
  private total = 0;
  private smooth = true;
  private shown: Frame | undefined;

  constructor() {
    this.scrub.addEventListener("input", () => this.showFrame(Number(this.scrub.value)));
    this.smoothButton.addEventListener("click", () => {
      this.smooth = !this.smooth;
      this.smoothButton.setAttribute("aria-pressed", String(this.smooth));
      this.paint();
    });
    new ResizeObserver(() => this.paint()).observe(this.stage);
  }

  setState(state: StageState): void {
    this.stage.dataset["state"] = state;
    this.ticks.hidden = state !== "running";
    this.smoothButton.disabled = state === "idle" || state === "loading";
    this.scrub.hidden = state !== "done" || this.frames.length < 2;
  }

  get state(): StageState {
    return this.stage.dataset["state"] as StageState;
  }

  /** Scrolls as little as it takes, on a screen that is too small for the form and the picture. */
  bringIntoView(): void {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("figure", HTMLElement).scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }

  /** Coloured noise in place of a picture: each seed has its own. */
  showNoise(seed: number): void {
    const size = 32;
    const pixels = new Uint8ClampedArray(size * size * 4);
    const random = mulberry32(seed);
    for (let i = 0; i < pixels.length; i += 4) {
      // Three uniform numbers make a bell curve that is good enough to look at.
      for (let c = 0; c < 3; c++) pixels[i + c] = 128 + 62 * (random() + random() + random() - 1.5) * 1.6;
      pixels[i + 3] = 255;
    }
    this.frames = [];
    this.shown = { step: 0, width: size, height: size, pixels };
    this.canvas.setAttribute("aria-label", "Noise: no picture yet");
    this.paint();
  }

  /** A run begins: as many ticks as it has steps. */
  begin(total: number): void {
    if (this.total !== total || this.ticks.childElementCount !== total) {
      this.ticks.replaceChildren(...Array.from({ length: total }, () => create("i")));
      this.total = total;
    }
    this.ticks.setAttribute("aria-valuemax", String(total));
    this.step(0);
  }

  step(done: number): void {
    for (const [i, tick] of Array.from(this.ticks.children).entries()) tick.classList.toggle("on", i < done);
    this.ticks.setAttribute("aria-valuenow", String(done));
    this.ticks.setAttribute("aria-valuetext", `Step ${done} of ${this.total}`);
  }

  preview(frame: Frame, prompt: string): void {
    this.shown = frame;
    this.canvas.setAttribute("aria-label", `Forming: ${prompt}`);
    this.paint();
  }

  /** A finished picture: the last frame is the picture, those before it are how it formed. */
  show(frames: readonly Frame[], prompt: string): void {
    this.frames = frames;
    this.scrub.max = String(Math.max(0, frames.length - 1));
    this.scrub.value = this.scrub.max;
    this.scrub.style.setProperty("--count", String(Math.max(1, frames.length - 1)));
    this.canvas.setAttribute("aria-label", prompt);
    this.setState("done");
    this.showFrame(frames.length - 1);
  }

  private showFrame(index: number): void {
    const frame = this.frames[index];
    if (frame === undefined) return;
    this.shown = frame;
    const last = this.frames.at(-1)!.step;
    this.scrub.setAttribute("aria-valuetext", `Step ${frame.step} of ${last}`);
    this.scrub.dataset["step"] = `${frame.step}`;
    this.paint();
  }

  private paint(): void {
    const frame = this.shown;
    if (frame === undefined) return;
    this.source.width = frame.width;
    this.source.height = frame.height;
    this.source.getContext("2d")?.putImageData(new ImageData(frame.pixels, frame.width, frame.height), 0, 0);
    this.glow.getContext("2d")?.drawImage(this.source, 0, 0, this.glow.width, this.glow.height);
    this.stage.style.setProperty("--ratio", String(frame.width / frame.height));

    // Smooth: resampled to the screen's own pixels, finer than the browser's scaling of an element.
    const smooth = this.smooth && frame.step > 0;
    const scale = smooth ? Math.max(1, (this.stage.clientWidth * devicePixelRatio) / frame.width) : 1;
    this.canvas.width = Math.round(frame.width * scale);
    this.canvas.height = Math.round(frame.height * scale);
    const context = this.canvas.getContext("2d");
    if (context === null) return;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.source, 0, 0, this.canvas.width, this.canvas.height);
  }
}

/** A small seeded generator of numbers in 0..1, for decoration only. */
function mulberry32(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
