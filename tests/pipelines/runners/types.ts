import type { AnyPipeline } from "@diffusers-web/pipelines";
import type { Call, Tensors } from "../../support/calls.ts";

/** Where a fixture set's calls are made. */
export interface Place {
  readonly device: "wasm" | "webgpu";
  /** The address of a file or folder of tests/fixtures. */
  path(name: string): string;
}

/** What a script of tests/fixtures/pipelines wrote, as far as the calls need it. */
export interface FixtureSet {
  readonly calls: readonly FixtureCall[];
  /** Names and shapes of weights that are invented. */
  readonly shapes?: readonly [name: string, shape: number[]][];
  readonly base?: Record<string, unknown>;
}

/** A call as it is written down: its pipeline's name has one of several names as well. */
export interface FixtureCall extends Omit<Call, "checkpoint"> {
  readonly checkpoint?: string;
  readonly pipeline?: string;
  readonly kind?: string | null;
}

/** What calls are made with. */
export interface Given {
  readonly place: Place;
  /** The fixture's own, and those of the set that its pictures are of. */
  readonly tensors: Tensors;
  readonly fixture: FixtureSet;
}

/** How the calls of a fixture set are made: a module of this folder. */
export interface CallRunner {
  /** The set that named pictures are of, if it is another one. */
  readonly pictures?: string;
  /** The pipelines, by the names that calls have for them. */
  load(place: Place, fixture: FixtureSet): Promise<Record<string, object>>;
  /** The pipeline of a call; without it, what the call says. */
  pipelineOf?(call: FixtureCall): string;
  /** The options of a call; without it, those of support/calls.ts. */
  options?(call: FixtureCall, given: Given): Record<string, unknown> | Promise<Record<string, unknown>>;
  /** The tensor of callback_on_step_end that is compared; without it, `latents`. */
  lastOf?(call: FixtureCall): string;
  /** Takes away what an earlier call left; false where that can't be done: then all is loaded anew. */
  renew?(pipelines: Readonly<Record<string, AnyPipeline>>): boolean | Promise<boolean>;
  /** What comes before a call, after the scheduler was put in. */
  prepare?(pipeline: object, call: FixtureCall, given: Given): Promise<void> | void;
}
