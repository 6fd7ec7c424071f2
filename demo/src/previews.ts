/** The share of a run's time that previews may take. */
const share = 0.3;

/** Decides after which steps a preview is worth its time, from what decoding and stepping take on the device at hand. */
export class Previews {
  private readonly total: number;
  private stepTime = 0;
  private steps = 0;
  private decodeTime: number | undefined;
  private warm: boolean;
  private last = 0;

  /** `warm`: the decoder has run before at this size, so that its first preview here tells its cost. */
  constructor(total: number, warm: boolean) {
    this.total = total;
    this.warm = warm;
  }

  /** A step is done, in so many milliseconds. */
  stepped(milliseconds: number): void {
    this.steps += 1;
    // The first step also prepares the device: what follows is the better measure.
    this.stepTime = this.steps <= 2 ? milliseconds : 0.7 * this.stepTime + 0.3 * milliseconds;
  }

  /** A preview took so many milliseconds. */
  decoded(step: number, milliseconds: number): void {
    this.last = step;
    if (this.warm) this.decodeTime = milliseconds;
    this.warm = true;
  }

  /** Whether to decode after this step. The last step needs none: the picture itself follows. */
  wanted(step: number): boolean {
    if (step >= this.total) return false;
    return this.last === 0 || step - this.last >= this.every;
  }

  /** Milliseconds to the picture; undefined until a step and a preview have shown what they take. */
  left(step: number): number | undefined {
    if (this.steps < 2 || this.decodeTime === undefined) return undefined;
    const steps = this.total - step;
    const previews = Math.floor(Math.max(0, steps - 1) / this.every);
    return steps * this.stepTime + (previews + 1) * this.decodeTime;
  }

  /** Steps from one preview to the next: few enough that the picture is seen to form, whatever they cost. */
  private get every(): number {
    if (this.decodeTime === undefined || this.stepTime === 0) return 1;
    const most = Math.max(1, Math.ceil(this.total / 3));
    return Math.min(most, Math.max(1, Math.ceil(this.decodeTime / (share * this.stepTime))));
  }
}
