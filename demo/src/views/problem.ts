import { byId, create } from "../dom.ts";
import type { RunError } from "../engine.ts";
import type { DeviceChoice } from "../protocol.ts";

export interface ProblemActions {
  again(): void;
  /** Draws on WASM from now on, and tries again. */
  onWasm(): void;
}

/** What went wrong, in plain words, with what to do about it. */
export class Problem {
  private readonly box = byId("problem", HTMLDivElement);
  private readonly actions: ProblemActions;

  constructor(actions: ProblemActions) {
    this.actions = actions;
  }

  hide(): void {
    this.box.hidden = true;
    this.box.replaceChildren();
  }

  show(error: RunError, device: DeviceChoice): void {
    const [title, advice] = explain(error.code, error.name);
    const buttons = create("p", { className: "problem-actions" });
    buttons.append(this.button("Try again", () => this.actions.again()));
    if (device !== "wasm" && (error.code === "DEVICE" || error.code === undefined)) {
      buttons.append(this.button("Draw on WASM instead", () => this.actions.onWasm()));
    }
    this.box.replaceChildren(
      create("h2", { textContent: title }),
      create("p", { className: "problem-message", textContent: error.message }),
      create("p", { textContent: `${advice} Your settings and pictures are as they were.` }),
      buttons,
    );
    this.box.hidden = false;
    this.box.scrollIntoView({ block: "nearest" });
  }

  private button(text: string, act: () => void): HTMLButtonElement {
    const button = create("button", { type: "button", className: "secondary", textContent: text });
    button.addEventListener("click", act);
    return button;
  }
}

/** Title and advice for an error's code; for one without code, by its name. */
function explain(code: string | undefined, name: string): readonly [string, string] {
  switch (code) {
    case "MODEL_NOT_FOUND":
      return ["The model could not be loaded", "Check the connection and the model's address, then try again."];
    case "INTEGRITY":
      return ["A model file is damaged", "The download was cut short or changed on its way. Try again."];
    case "UNSUPPORTED_MODEL":
    case "WEIGHTS_MISMATCH":
      return ["This model cannot run here", "Open the page without ?model= to use the one that comes with it."];
    case "DEVICE":
      return ["The graphics device cannot do this", "Drawing on WASM is slower and works everywhere."];
    case "QUOTA":
      return ["No room for the model", "Free some of this browser's storage, then try again."];
    case "VALUE":
      return ["A setting does not fit", "Change the setting that is named, then try again."];
    case "WORKER":
      return ["The drawing engine stopped", "Try again. If it stops again, reload the page."];
    default:
      return name === "TypeError"
        ? ["A setting does not fit this model", "Change the setting that is named, then try again."]
        : ["No picture this time", "Try again. If it fails again, reload the page or choose another device."];
  }
}
