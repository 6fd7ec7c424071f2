import {
  type Directory,
  isNode,
  type LoadOptions,
  ModelNotFoundError,
  makeCallable,
  openSource,
  reportProgress,
  type Source,
  type SourceLike,
  subSource,
  type Tensor,
  ValueError,
} from "@diffusers-web/core";
import type { ModelClass, ModelLoadOptions, ModelMixin, PreparedModel } from "./modeling_utils.ts";
import type { DeviceInfo, DeviceRequest, DtypeRequest } from "./runtime/device.ts";

/** The static side of a class of several models. */
export interface MultiModelClass<T, M> {
  new (members: readonly M[]): T;
  readonly name: string;
  readonly member_class: ModelClass<M> & Pick<typeof ModelMixin, "prepare">;
}

/** Several models of one class that work as one, and that are called like a function: `multi(x)` is `multi.forward(x)`. */
export abstract class MultiModel<M extends ModelMixin<object>> {
  static readonly name: string = "MultiModel";
  /** As the members' classes have it: what a pipeline looks for in their folders. */
  static readonly weights_name: string = "diffusion_pytorch_model";

  constructor(protected readonly members: readonly M[]) {
    if (members.length === 0) {
      const { name } = new.target as unknown as { readonly name: string };
      throw new ValueError(`${name} takes a list of models, but got an empty one.`, {
        className: name,
        found: "[]",
        expected: "a list of models",
      });
    }
    // biome-ignore lint/correctness/noConstructorReturn: the instance is a function with the instance's properties.
    return makeCallable(this, (self, args) => self.forward(...(args as never[])));
  }

  /** Computes the sum of what the models give. */
  abstract forward(...args: never[]): Promise<unknown>;

  /**
   * Loads the models of a folder and of those beside it with `_1`, `_2`... after its name, as many as there are.
   *
   * @param source the folder (of a hub repository: name it with `subfolder`)
   * @param options see {@link ModelLoadOptions}
   * @throws what the models' class throws.
   */
  static async from_pretrained<T extends MultiModel<ModelMixin<object>>, M>(
    this: MultiModelClass<T, M>,
    source: SourceLike,
    options: ModelLoadOptions = {},
  ): Promise<T> {
    const prepared = await (MultiModel.prepare<T, M>).call(this, source, options);
    return prepared.load(options.variant);
  }

  /** The first half of `from_pretrained`, see {@link ModelMixin.prepare}. @internal */
  static async prepare<T extends MultiModel<ModelMixin<object>>, M>(
    this: MultiModelClass<T, M>,
    source: SourceLike,
    options: ModelLoadOptions = {},
  ): Promise<PreparedModel<T>> {
    type Prepare = (this: unknown, from: SourceLike, o: ModelLoadOptions) => Promise<PreparedModel<M>>;
    const prepare = this.member_class.prepare as unknown as Prepare;
    // One for all, so that its counts go on from model to model.
    const shared = { ...options, progress_callback: reportProgress(options.progress_callback) };
    const opened = await openSource(source, options);
    const prepared = [await prepare.call(this.member_class, opened, shared)];
    for (;;) {
      const next = await folderBeside(source, opened, `_${prepared.length}`, options);
      if (next === undefined || !(await hasConfig(next, options))) break;
      prepared.push(await prepare.call(this.member_class, next.source, { ...shared, subfolder: next.subfolder }));
    }
    const load = async (variant: string | undefined): Promise<T> => {
      const members: M[] = [];
      try {
        for (const one of prepared) members.push(await one.load(variant));
        return new this(members);
      } catch (error) {
        for (const member of members) await (member as ModelMixin<object>).dispose();
        throw error;
      }
    };
    return { load };
  }

  /**
   * Writes each model into a folder of its own, for Python or for `from_pretrained`.
   *
   * @param directory the first model's folder, a path in Node: `_1`, `_2`... is put after it for the others. Where a
   * folder does not know what is beside it, a function that makes one with so much after its name
   * @see {@link ModelMixin.save_pretrained}
   */
  async save_pretrained(
    directory: string | ((suffix: string) => Promise<Directory>),
    options: { readonly variant?: string | undefined } = {},
  ): Promise<void> {
    const beside = typeof directory === "function" ? directory : async (suffix: string) => trimmed(directory) + suffix;
    for (const [i, member] of this.members.entries()) {
      await member.save_pretrained(await beside(i === 0 ? "" : `_${i}`), options);
    }
  }

  /** Where the models run: `webgpu` or `wasm`. */
  get device(): "webgpu" | "wasm" {
    return this.members[0]!.device;
  }

  /** What the models compute in. */
  get dtype(): "float32" | "float16" {
    return this.members[0]!.dtype;
  }

  /** What is known of the device, and why it was chosen. */
  get device_info(): DeviceInfo {
    return this.members[0]!.device_info;
  }

  /** Awaited before each run of a model: a pipeline that offloads makes room on the device in it. */
  get before_run(): (() => Promise<void>) | undefined {
    return this.members[0]!.before_run;
  }

  set before_run(hook: (() => Promise<void>) | undefined) {
    for (const member of this.members) member.before_run = hook;
  }

  /** Moves all models, see {@link ModelMixin.to}. */
  async to(target: DeviceRequest | DtypeRequest): Promise<this> {
    for (const member of this.members) await member.to(target);
    return this;
  }

  /** Frees the device's memory, see {@link ModelMixin.offload}. Idempotent. */
  async offload(): Promise<void> {
    for (const member of this.members) await member.offload();
  }

  /** Frees the device's memory and the weight files; no model can be called afterwards. Idempotent. */
  async dispose(): Promise<void> {
    for (const member of this.members) await member.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @throws ValueError unless an argument is a list with an entry for each model. */
  protected checkEach(field: string, list: readonly unknown[]): void {
    if (Array.isArray(list) && list.length === this.members.length) return;
    const found = Array.isArray(list) ? `${list.length} entries` : typeof list;
    const expected = `a list of ${this.members.length}`;
    const className = this.constructor.name;
    throw new ValueError(`${className} takes ${expected}, one for each model, as \`${field}\`, but got ${found}.`, {
      className,
      field,
      found,
      expected,
    });
  }

  /** @throws ValueError for outputs of different numbers or sizes. */
  protected sums(outputs: readonly (readonly Tensor[])[], field: string): Tensor[] {
    const [first, ...others] = outputs as [readonly Tensor[], ...(readonly Tensor[])[]];
    return others.reduce<Tensor[]>(
      (sum, list) => {
        const isSame = list.length === sum.length && list.every(({ dims }, i) => broadcasts(dims, sum[i]!.dims));
        if (isSame) return sum.map((tensor, i) => tensor.add(list[i]!));
        const [expected, found] = [sum, list].map((all) => all.map(({ dims }) => `[${dims}]`).join(", ")) as [
          string,
          string,
        ];
        const className = this.constructor.name;
        throw new ValueError(`The models of this ${className} give ${field} of sizes ${expected} and ${found}.`, {
          className,
          field,
          found,
          expected,
        });
      },
      [...first],
    );
  }
}

function broadcasts(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i] || dim === 1 || b[i] === 1);
}

/** A folder's path without slashes at its end. */
function trimmed(path: string): string {
  return path.replace(/\/+$/, "");
}

interface Folder {
  readonly source: Source;
  readonly subfolder: string | undefined;
}

async function hasConfig({ source, subfolder }: Folder, { signal }: LoadOptions): Promise<boolean> {
  const config = await subSource(source, subfolder).open("config.json", { signal });
  config?.close();
  return config !== undefined;
}

/** The folder beside the one that is loaded, with more to its name; undefined where it can have none. */
async function folderBeside(
  source: SourceLike,
  opened: Source,
  suffix: string,
  options: LoadOptions,
): Promise<Folder | undefined> {
  const { subfolder } = options;
  if (subfolder) return { source: opened, subfolder: trimmed(subfolder) + suffix };
  if ("parent" in opened && "prefix" in opened) {
    // A folder of another source: see `subSource`.
    const { parent, prefix } = opened as unknown as { readonly parent: Source; readonly prefix: string };
    return { source: parent, subfolder: trimmed(prefix) + suffix };
  }
  if (typeof source !== "string" && !(source instanceof URL)) return undefined;
  const path = trimmed(String(source));
  const isAddress = /^(\w+:|\.{0,2}[\\/])/.test(path);
  // What is neither an address nor (in Node) a folder is a hub repository, which has none beside it.
  if (!isAddress && !isNode) return undefined;
  try {
    const beside = await openSource((isAddress ? path : `./${path}`) + suffix, options);
    return { source: beside, subfolder: undefined };
  } catch (error) {
    if (error instanceof ModelNotFoundError) return undefined;
    throw error;
  }
}
