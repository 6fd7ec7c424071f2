import { ValueError } from "@diffusers-web/core";

/** A model that can leave its device, and come back when it next runs. */
export interface Offloadable {
  /** Frees the device's memory; the weights stay open. */
  offload(): Promise<void>;
  /** Awaited before each run of the model. */
  before_run: (() => Promise<void>) | undefined;
}

type Components = Readonly<Record<string, unknown>>;

function isOffloadable(component: unknown): component is Offloadable {
  return typeof (component as Partial<Offloadable> | null)?.offload === "function";
}

/**
 * The order in which a pipeline's models work, as `model_cpu_offload_seq` has it.
 *
 * @throws ValueError for a pipeline class that has none.
 */
export function offloadSequence(className: string, written: string | null): readonly string[] {
  if (written !== null) return written.split("->");
  throw new ValueError(
    `Model CPU offload cannot be enabled: ${className} does not say in which order its models work.`,
    { className, field: "model_cpu_offload_seq", found: "null", expected: 'e.g. "text_encoder->unet->vae"' },
  );
}

/** Takes all models off their devices. */
export async function offloadAll(components: Components): Promise<void> {
  for (const model of Object.values(components).filter(isOffloadable)) await model.offload();
}

/**
 * Runs `call` with at most one of the models in `sequence` on the device: each takes the others off before it runs.
 * Models outside of the sequence work side by side with others (a ControlNet), and stay until the end. Afterwards none is
 * on the device, whether the call succeeded or not.
 */
export async function withOffload<T>(
  components: Components,
  sequence: readonly string[],
  call: () => Promise<T>,
): Promise<T> {
  const taking = sequence.map((name) => components[name]).filter(isOffloadable);
  for (const model of taking) {
    model.before_run = async () => {
      for (const other of taking) if (other !== model) await other.offload();
    };
  }
  try {
    return await call();
  } finally {
    for (const model of taking) model.before_run = undefined;
    await offloadAll(components);
  }
}
