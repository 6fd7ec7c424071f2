import type { LoadProgress, SerializedError } from "@diffusers-web/pipelines";

/** Where a run is to happen; `auto` lets the library decide. */
export type DeviceChoice = "auto" | "webgpu" | "wasm";

/** All that decides a picture, as the form holds it and as the history gives it back. */
export interface Settings {
  readonly prompt: string;
  readonly negativePrompt: string;
  readonly seed: number;
  readonly steps: number;
  readonly guidance: number;
  /** The class name of a scheduler that the library exports. */
  readonly scheduler: string;
}

/** What to load, and where. */
export interface ModelRequest {
  /** Base address of a checkpoint in the Diffusers layout. */
  readonly model: string;
  readonly device: DeviceChoice;
}

/** What a run goes by: an abort or an answer names it by `run`. */
export type Request =
  | ({ readonly type: "load"; readonly run: number } & ModelRequest)
  | ({ readonly type: "generate"; readonly run: number; readonly settings: Settings } & ModelRequest)
  | { readonly type: "abort"; readonly run: number };

/** What runs the graphs, and why it is that. */
export interface DeviceReport {
  readonly type: "webgpu" | "wasm";
  /** The adapter's name, where the browser tells it. */
  readonly name: string;
  readonly dtype: string;
  /** Why this device was chosen, and what it cannot do: one plain sentence each. */
  readonly reasons: readonly string[];
}

/** A picture that is still forming: RGBA, row by row. */
export interface Frame {
  readonly step: number;
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8ClampedArray<ArrayBuffer>;
}

/** A finished picture. */
export interface Picture extends Frame {
  /** The file to download, at the picture's own size, with the parameters in a text chunk. */
  readonly png: Blob;
  /** Seconds from the prompt to the picture; the first run on a device also starts the engine. */
  readonly seconds: number;
  readonly device: DeviceReport;
}

export type Reply =
  /** Sent once, when the worker has started: what the package at hand offers. */
  | { readonly type: "hello"; readonly schedulers: readonly string[] }
  /** Of no run in particular: what one has begun to load, the next one waits for. */
  | { readonly type: "progress"; readonly progress: LoadProgress }
  /** The model is there: what it runs on, the scheduler that was saved with it, and those that take its config. */
  | {
      readonly type: "loaded";
      readonly run: number;
      readonly device: DeviceReport;
      readonly scheduler: string;
      readonly schedulers: readonly string[];
    }
  /** Ends a `load`. */
  | { readonly type: "ready"; readonly run: number }
  /** After each step. `left` is the time to the finished picture in milliseconds, once there is a ground to tell it. */
  | {
      readonly type: "step";
      readonly run: number;
      readonly step: number;
      readonly total: number;
      readonly left: number | undefined;
    }
  | { readonly type: "preview"; readonly run: number; readonly frame: Frame }
  /** Ends a `generate`. */
  | { readonly type: "picture"; readonly run: number; readonly picture: Picture }
  /** Ends a run that was cancelled (an AbortError) or went wrong. */
  | { readonly type: "failed"; readonly run: number; readonly error: SerializedError };
