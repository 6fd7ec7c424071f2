/** How long an event may wait where no frames are drawn, as in a tab out of sight. */
const HIDDEN_MS = 100;

/** Tells events to a listener at most once a frame: each time the latest, and the last one always. */
export class Frames {
  private latest: readonly unknown[] | undefined;
  private cancel: (() => void) | undefined;

  constructor(private readonly listener: (...args: readonly unknown[]) => void) {}

  push(args: readonly unknown[]): void {
    this.latest = args;
    if (this.cancel !== undefined) return;
    const tell = (): void => this.flush();
    const frame = typeof requestAnimationFrame === "function" ? requestAnimationFrame(tell) : undefined;
    const timer = setTimeout(tell, HIDDEN_MS);
    this.cancel = () => {
      if (frame !== undefined) cancelAnimationFrame(frame);
      clearTimeout(timer);
    };
  }

  /** Tells what still waits, now. */
  flush(): void {
    const args = this.latest;
    this.drop();
    if (args !== undefined) this.listener(...args);
  }

  /** Forgets what still waits. */
  drop(): void {
    this.cancel?.();
    this.cancel = undefined;
    this.latest = undefined;
  }
}
