/** What a call says of itself while it runs. */
export interface RunProgress {
  /** What comes next: everything before the first step, the steps, what follows them (mostly the decoder), nothing. */
  readonly phase: "prepare" | "denoise" | "decode" | "done";
  /** How many steps are done, counted as the scheduler's timesteps: each is one run of the UNet. */
  readonly step: number;
  /** How many there will be; 0 while that is not known. */
  readonly steps: number;
  /** Since the call began. */
  readonly elapsed_seconds: number;
  /**
   * How long it will still take, as far as anything has been measured: undefined until the second step is done (the first also
   * uploads and compiles), or an earlier call has run at the same size. What follows the steps counts once an earlier call has
   * shown how long it takes.
   */
  readonly seconds_left: number | undefined;
}

/** How long things take at one size: of the calls so far. */
interface Measured {
  step: number | undefined;
  decode: number | undefined;
}

/** What calls of one pipeline have shown, by device and size. */
export class RunTimings {
  private readonly bySize = new Map<string, Measured>();

  at(size: string): Measured {
    const known = this.bySize.get(size) ?? { step: undefined, decode: undefined };
    this.bySize.set(size, known);
    return known;
  }
}

/** Watches one call. */
export class RunWatch {
  private readonly report: ((progress: RunProgress) => unknown) | undefined;
  private readonly timings: RunTimings;
  private readonly now: () => number;
  private readonly begin: number;
  private measured: Measured = { step: undefined, decode: undefined };
  private phase: RunProgress["phase"] = "prepare";
  private step = 0;
  private steps = 0;
  private stepEnd = 0;

  /** @param now milliseconds of a clock that does not go back */
  constructor(
    report: ((progress: RunProgress) => unknown) | undefined,
    timings: RunTimings,
    now: () => number = () => performance.now(),
  ) {
    this.report = report;
    this.timings = timings;
    this.now = now;
    this.begin = now();
    this.tell();
  }

  /** The steps begin. @param size tells apart what takes its own time: the device and the latents' dims */
  denoise(steps: number, size: string): void {
    this.measured = this.timings.at(size);
    this.phase = "denoise";
    this.steps = steps;
    this.stepEnd = this.now();
    this.tell();
  }

  stepped(): void {
    const now = this.now();
    const took = now - this.stepEnd;
    this.stepEnd = now;
    this.step += 1;
    // The first step of a call may also prepare the device: it tells nothing of the others.
    if (this.step > 1) {
      const { step } = this.measured;
      this.measured.step = step === undefined ? took : 0.7 * step + 0.3 * took;
    }
    this.tell();
  }

  /** The steps are done, or those that remain are left out. */
  decode(): void {
    this.phase = "decode";
    this.stepEnd = this.now();
    this.tell();
  }

  done(): void {
    if (this.phase === "decode") this.measured.decode = this.now() - this.stepEnd;
    this.phase = "done";
    this.tell();
  }

  private tell(): void {
    const now = this.now();
    const seconds_left = this.left(now);
    this.report?.({
      phase: this.phase,
      step: this.step,
      steps: this.steps,
      elapsed_seconds: (now - this.begin) / 1000,
      seconds_left: seconds_left === undefined ? undefined : seconds_left / 1000,
    });
  }

  private left(now: number): number | undefined {
    const { step, decode } = this.measured;
    if (this.phase === "done") return 0;
    if (this.phase === "decode") return decode === undefined ? undefined : Math.max(0, decode - (now - this.stepEnd));
    if (this.phase === "prepare" || step === undefined) return undefined;
    return (this.steps - this.step) * step + (decode ?? 0);
  }
}
