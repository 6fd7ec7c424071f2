let allocated = 0;
let peak = 0;

/**
 * Counts the weights of a session as on the device from now on.
 *
 * @returns ends that; only the first call does
 */
export function holdMemory(bytes: number): () => void {
  allocated += bytes;
  peak = Math.max(peak, allocated);
  let held = bytes;
  return () => {
    allocated -= held;
    held = 0;
  };
}

/**
 * Bytes of weights that models hold on their devices now (on the GPU, or in the engine's heap), all models together.
 * Intermediate values come on top while a model runs.
 *
 * @see torch `torch.cuda.memory_allocated`
 */
export function memory_allocated(): number {
  return allocated;
}

/** The largest {@link memory_allocated} since the start, or since {@link reset_peak_memory_stats}. */
export function max_memory_allocated(): number {
  return peak;
}

/** Starts {@link max_memory_allocated} anew, from what is held now. */
export function reset_peak_memory_stats(): void {
  peak = allocated;
}
