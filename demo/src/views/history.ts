import { byId, create } from "../dom.ts";
import type { Frame, Picture, Settings } from "../protocol.ts";

/** A picture of this session with what made it. */
export interface Entry {
  readonly settings: Settings;
  readonly picture: Picture;
  /** How it formed, the picture itself last. */
  frames: readonly Frame[];
}

/** Frames of older pictures are let go beyond this many bytes; the pictures themselves stay. */
const frameBudget = 64e6;

/** The strip of this session's pictures, newest first. */
export class History {
  private readonly entries: Entry[] = [];
  private readonly list = byId("history", HTMLOListElement);
  private readonly strip = byId("strip", HTMLElement);
  private readonly choose: (entry: Entry) => void;

  constructor(choose: (entry: Entry) => void) {
    this.choose = choose;
  }

  add(entry: Entry): void {
    this.entries.unshift(entry);
    this.trim();
    const { prompt, seed } = entry.settings;
    const button = create("button", { type: "button", title: prompt, ariaLabel: `${prompt}, seed ${seed}` });
    const { width, height, pixels } = entry.picture;
    const thumbnail = create("canvas", { width, height });
    thumbnail.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
    button.append(thumbnail);
    button.addEventListener("click", () => {
      this.mark(button);
      this.choose(entry);
    });
    const item = create("li");
    item.append(button);
    this.list.prepend(item);
    this.list.scrollLeft = 0;
    this.strip.hidden = false;
    this.mark(button);
  }

  /** While a picture forms the others wait. */
  setBusy(busy: boolean): void {
    for (const button of this.list.querySelectorAll("button")) button.disabled = busy;
  }

  private mark(current: HTMLButtonElement): void {
    for (const button of this.list.querySelectorAll("button")) {
      if (button === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  private trim(): void {
    let sum = 0;
    for (const entry of this.entries) {
      sum += entry.frames.reduce((bytes, frame) => bytes + frame.pixels.byteLength, 0);
      if (sum > frameBudget) entry.frames = [entry.picture];
    }
  }
}
