import { ValueError } from "../errors.ts";
import { SchedulerMixin } from "./scheduling_utils.ts";

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

/**
 * The timestep that comes after `timestep` in a schedule; -1 at its end.
 *
 * @throws ValueError when it is not there.
 * @see Diffusers `previous_timestep`
 */
export function previousTimestep(where: string, timesteps: ArrayLike<number>, timestep: number): number {
  const index = Array.prototype.indexOf.call(timesteps, timestep);
  return index < 0 ? unknownTimestep(where, timestep) : (timesteps[index + 1] ?? -1);
}

/**
 * For classes whose timesteps are fractions: refuses a step's number in place of its timestep. (Of Python's two kinds of
 * numbers such classes refuse the integers.)
 *
 * @param index of the step at hand
 * @throws ValueError when `timestep` is the index, and none of the timesteps.
 */
export function refuseStepIndex(where: string, timestep: number, index: number, timesteps: ArrayLike<number>): void {
  if (timestep === index && indexForTimestep(timesteps, timestep) < 0) unknownTimestep(where, timestep);
}

/**
 * A scheduler that finds its first timestep and then counts its steps, for a timestep may come twice in its schedule.
 *
 * @see Diffusers `_init_step_index`
 */
export abstract class IndexedSchedulerMixin<C extends object> extends SchedulerMixin<C> {
  static override readonly name: string = "IndexedSchedulerMixin";

  protected stepIndex: number | null = null;
  protected beginIndex: number | null = null;

  /** The index of the next step; null before the first. */
  get step_index(): number | null {
    return this.stepIndex;
  }

  /** The index of the first step, as {@link set_begin_index} set it. */
  get begin_index(): number | null {
    return this.beginIndex;
  }

  /** Says where a run that starts midway (image to image) begins. `set_timesteps` forgets it. */
  set_begin_index(begin_index: number = 0): void {
    this.beginIndex = begin_index;
  }

  /** The index in `timesteps`; of a timestep that comes twice, the second. @throws ValueError when it is not there. */
  index_for_timestep(timestep: number, schedule_timesteps: ArrayLike<number> = this.timesteps): number {
    const value = schedule_timesteps instanceof Float32Array ? Math.fround(timestep) : timestep;
    const index = indexForTimestep(schedule_timesteps, value);
    return index < 0 ? this.indexOfUnknown(timestep) : index;
  }

  /** What a timestep that is not in the schedule stands for. @throws ValueError where it stands for nothing. */
  protected indexOfUnknown(timestep: number): number {
    return unknownTimestep((this.constructor as { name: string }).name, timestep);
  }

  /** The index of the step at hand: only the first timestep of a run is looked at. */
  protected startAt(timestep: number): number {
    this.stepIndex ??= this.beginIndex ?? this.index_for_timestep(timestep);
    return this.stepIndex;
  }

  /** For `add_noise`: the place of each timestep, or once there is a begin index, that at which the run is. */
  protected noiseIndices(timesteps: ArrayLike<number>): number[] {
    return Array.from(timesteps, (t) =>
      this.beginIndex === null ? this.index_for_timestep(t) : (this.stepIndex ?? this.beginIndex),
    );
  }

  /** For `set_timesteps`. */
  protected resetIndex(): void {
    this.stepIndex = null;
    this.beginIndex = null;
  }
}
