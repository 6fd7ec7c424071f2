import { ValueError } from "../errors.ts";

/**
 * Where `timestep` is in a schedule; -1 where it is not. Of a timestep that comes twice it is the second place, so
 * that a run which starts midway (image to image) skips no sigma.
 *
 * @see Diffusers `index_for_timestep`
 */
export function indexForTimestep(timesteps: ArrayLike<number>, timestep: number): number {
  const first = Array.prototype.indexOf.call(timesteps, timestep);
  const second = first < 0 ? -1 : Array.prototype.indexOf.call(timesteps, timestep, first + 1);
  return second < 0 ? first : second;
}

/** @throws ValueError always: `timestep` is none of the schedule's. */
export function unknownTimestep(where: string, timestep: number): never {
  throw new ValueError(
    `${timestep} is none of the timesteps of this ${where}. Pass one of \`scheduler.timesteps\`, not its index.`,
    { className: where, field: "timestep", found: String(timestep), expected: "one of `scheduler.timesteps`" },
  );
}

/** The config fields that choose how sigmas are spaced; at most one of the three may be set. */
export interface SigmaConfig {
  /** Whether to space sigmas as Karras et al. Default false. */
  use_karras_sigmas: boolean | null;
  /** Whether to space sigmas exponentially. Default false. */
  use_exponential_sigmas: boolean | null;
  /** Whether to space sigmas by quantiles of a beta distribution. Default false. */
  use_beta_sigmas: boolean | null;
}

/** @throws ValueError when more than one spacing of sigmas is asked for. */
export function checkSigmaConfig(where: string, config: Readonly<SigmaConfig>): void {
  const { use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas } = config;
  if (Number(use_karras_sigmas) + Number(use_exponential_sigmas) + Number(use_beta_sigmas) <= 1) return;
  throw new ValueError("Only one of `use_beta_sigmas`, `use_exponential_sigmas`, `use_karras_sigmas` can be set.", {
    className: where,
    field: "use_karras_sigmas",
  });
}
