import type { FileInfo, LoadProgress, LoadStep } from "./source.ts";

/** Between two events, unless one is the first or last of a file in a phase: 30 a second. */
const INTERVAL_MS = 1000 / 30;
/** The speed is that of the last seconds. */
const WINDOW_MS = 4000;
/** A shorter time tells no speed. */
const MIN_WINDOW_MS = 500;
/** How far apart the points of the window are, at least. */
const SAMPLE_MS = 200;

type Callback = (progress: LoadProgress) => void;
type Announced = readonly Pick<FileInfo, "path" | "size">[];

/** Makes a load's events of what its parts tell: called with each {@link LoadStep}, it decides what the callback is told. */
export interface ProgressReporter {
  (step: LoadStep): void;
  /** All files that the load fetches. Only then is it known how much is to come, and when it will have come. */
  announce(files: Announced): void;
  /** The announced files are all there: also those of which nothing was told, since they had been there before. */
  arrived(): void;
  /** What a component will upload when it is first called: so the total holds for all of them from the start. */
  announceUpload(file: string, bytes: number): void;
}

const reporters = /* @__PURE__ */ new WeakSet<object>();

/**
 * The reporter of a load, made once: for the reporter that a pipeline hands to its components' `from_pretrained` it is
 * that one again.
 *
 * @returns undefined without a callback: a load that nobody watches counts nothing
 */
export function reportProgress(callback: Callback | undefined): ProgressReporter | undefined {
  if (callback === undefined) return undefined;
  if (reporters.has(callback)) return callback as unknown as ProgressReporter;
  const load = new Load(callback);
  const reporter: ProgressReporter = Object.assign((step: LoadStep) => load.step(step), {
    announce: (files: Announced) => load.announce(files),
    arrived: () => load.arrived(),
    announceUpload: (file: string, bytes: number) => load.announceUpload(file, bytes),
  });
  reporters.add(reporter);
  return reporter;
}

/** Where a file is. */
interface Entry {
  /** As last told. It goes back when a file is fetched anew. */
  raw: number;
  /** The most that was told: what is shown. */
  loaded: number;
  /** 0 while it is not known. */
  total: number;
  /** Something was told of it. */
  begun: boolean;
  /** Counted among the files that are there. */
  done: boolean;
}

/** Files, and sums over them that are kept as they change. */
class Counts {
  private readonly entries = new Map<string, Entry>();
  loaded = 0;
  total = 0;
  done = 0;
  /** Bytes still to come: more than `total - loaded` while a file is fetched anew. */
  left = 0;

  get size(): number {
    return this.entries.size;
  }

  get(file: string): Entry | undefined {
    return this.entries.get(file);
  }

  add(file: string, total: number): Entry {
    const entry = this.entries.get(file) ?? { raw: 0, loaded: 0, total: 0, begun: false, done: false };
    this.entries.set(file, entry);
    this.set(entry, entry.raw, total);
    return entry;
  }

  /** Takes what was counted of a file as another one's, so that the file can be counted once more. */
  keepAside(file: string, entry: Entry): void {
    this.entries.delete(file);
    this.entries.set(`${file}\n${this.size}`, entry);
  }

  set(entry: Entry, raw: number, total: number): void {
    const loaded = Math.max(entry.loaded, raw);
    // A total that is not known is at least what has come.
    const size = Math.max(total, loaded);
    const before = Math.max(entry.total, entry.loaded);
    this.loaded += loaded - entry.loaded;
    this.total += size - before;
    this.left += size - raw - (before - entry.raw);
    if (total > 0 && raw >= total) this.finish(entry);
    Object.assign(entry, { raw, loaded, total });
  }

  finish(entry: Entry): void {
    if (!entry.done) this.done += 1;
    entry.done = true;
  }

  finishAll(): void {
    for (const entry of this.entries.values()) {
      const size = Math.max(entry.total, entry.loaded);
      this.set(entry, size, size);
      this.finish(entry);
    }
  }
}

/** The speed over the last seconds. */
class Speed {
  private moved = 0;
  private readonly samples: { readonly time: number; readonly moved: number }[] = [];

  add(bytes: number, now: number): void {
    this.moved += bytes;
    const last = this.samples.at(-1);
    if (last !== undefined && now - last.time < SAMPLE_MS) return;
    this.samples.push({ time: now, moved: this.moved });
    // One that is older stays: after a pause it tells how long that was.
    while (this.samples.length > 2 && now - this.samples[1]!.time >= WINDOW_MS) this.samples.shift();
  }

  perSecond(now: number): number | undefined {
    const first = this.samples[0];
    if (first === undefined || now - first.time < MIN_WINDOW_MS) return undefined;
    return ((this.moved - first.moved) / (now - first.time)) * 1000;
  }
}

class Load {
  private readonly downloads = new Counts();
  private uploads = new Counts();
  /** Of the other phases, to know the first and last step of each file. */
  private readonly others = new Counts();
  private readonly speed = new Speed();
  private announced = false;
  private lastTime = Number.NEGATIVE_INFINITY;
  /** The last step of each file that was held back, if nothing of it was told since. */
  private readonly held = new Map<string, LoadStep>();

  constructor(private readonly callback: Callback) {}

  announce(files: Announced): void {
    this.announced = true;
    for (const { path, size } of files) this.downloads.add(path, size);
  }

  arrived(): void {
    this.downloads.finishAll();
  }

  announceUpload(file: string, bytes: number): void {
    this.uploads.add(file, bytes);
  }

  step(step: LoadStep): void {
    const { phase, file } = step;
    const now = performance.now();
    const counts = phase === "upload" ? this.uploadCounts(step) : phase === "download" ? this.downloads : this.others;
    const name = counts === this.others ? `${phase} ${file}` : file;
    const entry = counts.get(name) ?? counts.add(name, step.total);
    const isFirst = !entry.begun;
    // What was kept of an earlier load did not come now, and a start anew takes back nothing.
    if (phase === "download") this.speed.add(isFirst ? 0 : Math.max(0, step.loaded - entry.raw), now);
    const total = step.total > 0 ? step.total : entry.total;
    const isLast = total > 0 ? step.loaded >= total && (isFirst || entry.raw < total) : step.loaded === 0;
    entry.begun = true;
    counts.set(entry, step.loaded, total);

    const shown = { phase, file, loaded: entry.loaded, total };
    if (isFirst && phase !== "download") this.tellEnds(now);
    if (isFirst || isLast || now - this.lastTime >= INTERVAL_MS) {
      this.held.delete(file);
      this.tell(shown, now);
    } else {
      this.held.set(file, shown);
    }
  }

  /** A file of unknown length has ended when another phase begins. */
  private tellEnds(now: number): void {
    for (const [file, step] of this.held) {
      if (step.phase !== "download" || step.total > 0) continue;
      this.held.delete(file);
      this.tell(step, now);
    }
  }

  /** The counts that an upload's step belongs to. */
  private uploadCounts({ file, loaded, total }: LoadStep): Counts {
    const entry = this.uploads.get(file);
    const isAgain = entry?.begun === true && (loaded < entry.raw || total !== entry.total);
    if (entry === undefined || isAgain) {
      // All that was to come has: what comes now, for another size or of another part of a model, is a count of its own.
      if (this.uploads.left === 0) this.uploads = new Counts();
      else if (entry?.done === true) this.uploads.keepAside(file, entry);
    }
    return this.uploads;
  }

  private tell(step: LoadStep, now: number): void {
    this.lastTime = now;
    const counts = step.phase === "upload" || step.phase === "compile" ? this.uploads : this.downloads;
    const speed = step.phase === "download" ? this.speed.perSecond(now) : undefined;
    const isKnown = this.announced && speed !== undefined && (speed > 0 || counts.left === 0);
    this.callback({
      ...step,
      loaded_bytes: counts.loaded,
      total_bytes: counts.total,
      loaded_files: counts.done,
      total_files: counts.size,
      speed,
      seconds_left: isKnown ? counts.left / Math.max(speed, 1) : undefined,
    });
  }
}
