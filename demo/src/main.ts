import { cache } from "@diffusers-web/pipelines";
import { byId } from "./dom.ts";
import { Engine, type Run, RunError } from "./engine.ts";
import { duration, fileName, timeLeft } from "./format.ts";
import type { DeviceChoice, Frame, ModelRequest, Picture, Reply, Settings } from "./protocol.ts";
import { DeviceLine } from "./views/device.ts";
import { Form } from "./views/form.ts";
import { type Entry, History } from "./views/history.ts";
import { Loading } from "./views/loading.ts";
import { Problem } from "./views/problem.ts";
import { Stage } from "./views/stage.ts";

const parameters = new URLSearchParams(location.search);
const model =
  parameters.get("model") ?? new URL(`${import.meta.env.BASE_URL}models/emoji-diffusion`, location.href).href;
const embedded = !parameters.has("model");

const engine = new Engine(receive);
const stage = new Stage();
const loading = new Loading();
const deviceLine = new DeviceLine();
const history = new History(showEntry);
const problem = new Problem({ again: generate, onWasm });
const form = new Form({ generate, cancel, intent: warmUp, seed: showSeed, device: changeDevice }, deviceParameter());

const status = byId("status", HTMLElement);
const statusDetail = byId("status-detail", HTMLElement);
const stageNote = byId("stage-note", HTMLParagraphElement);
const live = byId("live", HTMLParagraphElement);
const download = byId("download", HTMLButtonElement);

/** The run under way, and what it has shown so far. */
let current:
  | { readonly run: Run<Picture>; readonly settings: Settings; readonly frames: Frame[]; cancelling: boolean }
  | undefined;
/** What the stage shows when nothing is under way. */
let shown: Entry | undefined;
let loaded = false;
let warming = false;

download.addEventListener("click", () => {
  if (shown !== undefined) save(shown);
});
deviceLine.expect(form.deviceChoice);
showIdle();
engine.start();

function deviceParameter(): DeviceChoice {
  const asked = parameters.get("device");
  return asked === "webgpu" || asked === "wasm" ? asked : "auto";
}

function request(): ModelRequest {
  return { model, device: form.deviceChoice };
}

/** Loads the model while the visitor still types: unless they asked their browser to save data, or it failed before. */
function warmUp(): void {
  const connection = (navigator as { connection?: { saveData?: boolean } }).connection;
  if (loaded || warming || current !== undefined || connection?.saveData === true) return;
  warming = true;
  // The run that needs the model reports what is wrong with it.
  engine.load(request()).result.catch((error: unknown) => {
    if (!(error instanceof RunError)) throw error;
  });
}

async function generate(): Promise<void> {
  if (current !== undefined) return;
  const settings = form.read();
  if (settings.prompt === "") {
    say("Type a thing first.", "Or take one of the examples.");
    form.focusPrompt();
    return;
  }
  problem.hide();
  const started = { run: engine.generate(request(), settings), settings, frames: [], cancelling: false };
  current = started;
  form.setBusy(true);
  history.setBusy(true);
  download.disabled = true;
  stage.bringIntoView();
  if (loaded) {
    say("Starting", "");
  } else {
    stage.setState("loading");
    loading.show();
    say("Loading the model", embedded ? "Once per visit, 21 MB." : "");
  }
  try {
    const picture = await started.run.result;
    finish({ settings, picture, frames: [...started.frames, picture] });
  } catch (error) {
    if (!(error instanceof RunError)) throw error;
    stop(error);
  } finally {
    current = undefined;
    loading.hide();
    form.setBusy(false);
    history.setBusy(false);
  }
}

function cancel(): void {
  if (current === undefined) return;
  current.cancelling = true;
  form.setBusy(true, true);
  say("Cancelling", "");
  current.run.cancel();
}

function receive(reply: Reply): void {
  switch (reply.type) {
    case "hello":
      form.offerSchedulers(reply.schedulers);
      break;
    case "progress":
      loading.update(reply.progress);
      break;
    case "loaded":
      loaded = true;
      deviceLine.report(reply.device);
      form.offerSchedulers(reply.schedulers, reply.scheduler);
      // Only a window can ask the browser to keep what the worker downloads.
      if (/^[\w.-]+\/[\w.-]+$/.test(model)) cache.persist().catch(console.warn);
      // The engine comes with the first run, and makes the model ready for it.
      if (current !== undefined && stage.state === "loading") say("Starting the engine", "");
      break;
    case "step":
      if (current === undefined) break;
      if (stage.state !== "running") stage.begin(reply.total);
      stage.setState("running");
      stageNote.hidden = true;
      loading.hide();
      stage.step(reply.step);
      if (current.cancelling) break;
      setStatus(
        `Step ${reply.step} of ${reply.total}`,
        reply.left === undefined ? "" : reply.step === reply.total ? "Finishing" : timeLeft(reply.left),
      );
      if (reply.step === 1) live.textContent = `Drawing, ${reply.total} steps`;
      break;
    case "preview":
      if (current === undefined) break;
      current.frames.push(reply.frame);
      stage.preview(reply.frame, current.settings.prompt);
      break;
  }
}

function finish(entry: Entry): void {
  history.add(entry);
  form.useSeed(entry.settings.seed);
  showEntry(entry, false);
  live.textContent = `Picture ready: ${entry.settings.prompt}`;
}

/** A run ended without a picture: the last one comes back, and the form stays as it is. */
function stop(error: RunError): void {
  if (shown !== undefined) showEntry(shown, false);
  else showIdle();
  if (error.cancelled) {
    say("Cancelled.", "Your settings are as they were.");
  } else {
    problem.show(error, form.deviceChoice);
    setStatus("No picture this time.", "What went wrong is written above.");
  }
  // A lost device takes the model along; so does a worker that stopped.
  if (error.code === "DEVICE" || error.code === "WORKER") loaded = false;
  if (!loaded) {
    loading.clear();
    warming = false;
  }
}

function showEntry(entry: Entry, restore = true): void {
  shown = entry;
  const { settings, picture, frames } = entry;
  if (restore) {
    form.write(settings);
    problem.hide();
  }
  stageNote.hidden = true;
  stage.show(frames, settings.prompt);
  download.disabled = false;
  const device = picture.device.type === "webgpu" ? "WebGPU" : "WASM";
  setStatus(
    settings.prompt,
    `Seed ${settings.seed}, ${settings.steps} steps in ${duration(picture.seconds)} on ${device}.`,
  );
}

function showIdle(): void {
  stage.setState("idle");
  stageNote.hidden = false;
  showSeed(form.seedShown);
  setStatus("Nothing drawn yet.", embedded ? "The first picture loads the model, 21 MB." : "");
}

function showSeed(seed: number): void {
  if (shown === undefined && current === undefined) stage.showNoise(seed);
}

function changeDevice(choice: DeviceChoice): void {
  loaded = false;
  loading.clear();
  deviceLine.expect(choice);
}

function onWasm(): void {
  form.setDevice("wasm");
  changeDevice("wasm");
  generate();
}

function save({ settings, picture }: Entry): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture.png);
  link.download = fileName(settings.prompt, settings.seed);
  link.click();
  // The browser has begun to read the blob by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The caption under the picture; {@link say} also reads it out. */
function setStatus(text: string, detail: string): void {
  status.textContent = text;
  statusDetail.textContent = detail;
}

function say(text: string, detail: string): void {
  setStatus(text, detail);
  live.textContent = `${text} ${detail}`;
}
