import { byId } from "../dom.ts";
import type { DeviceChoice, DeviceReport } from "../protocol.ts";

/** Says what the pictures are drawn on, and why. */
export class DeviceLine {
  private readonly line = byId("device-line", HTMLParagraphElement);
  private readonly short = byId("device-short", HTMLSpanElement);
  private readonly note = byId("device-note", HTMLParagraphElement);

  /** Before a model is loaded: what can be said without starting the device. */
  expect(choice: DeviceChoice): void {
    const hasWebGPU = "gpu" in navigator;
    this.line.dataset["type"] = "unknown";
    if (choice === "wasm") {
      this.write("WASM", "WASM: your choice.");
    } else if (!hasWebGPU) {
      const why = "This browser offers no WebGPU";
      this.write("WASM", choice === "auto" ? `${why}, so pictures are drawn on WASM.` : `${why}: choose WASM.`);
    } else if (choice === "webgpu") {
      this.write("WebGPU", "WebGPU: your choice. It is tested when the model loads.");
    } else {
      this.write("WebGPU or WASM", "WebGPU where the graphics device passes its test, WASM otherwise.");
    }
  }

  report(report: DeviceReport): void {
    this.line.dataset["type"] = report.type;
    const label = report.type === "webgpu" ? "WebGPU" : "WASM";
    const half = report.dtype === "float16" ? ", half precision" : "";
    const name = report.name === "" ? "" : ` (${report.name}${half})`;
    this.write(label, `${label}${name}. ${report.reasons.join(" ")}`.trim());
  }

  private write(short: string, note: string): void {
    this.short.textContent = short;
    this.line.title = note;
    this.note.textContent = note;
  }
}
