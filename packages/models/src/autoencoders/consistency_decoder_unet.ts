import { type DiffusersWebError, UnsupportedModelError, ValueError } from "@diffusers-web/core";
import type { GraphBuilder } from "../graph/builder.ts";
import type { WeightSource } from "../graph/types.ts";
import type { Runner } from "../modeling_utils.ts";
import { UNet2DModel } from "../unets/unet_2d.ts";
import type { UNet2DModelConfig } from "../unets/unet_2d_config.ts";

type EmitGraph = (g: GraphBuilder) => void;
/** How the model that a UNet is part of makes its sessions. */
type MakeSession = (name: string, dims: unknown, build: EmitGraph) => Promise<Runner>;

const prefix = "decoder_unet.";

/** A UNet that is part of another model: it runs in that model's sessions, on that model's tensors. */
export class ConsistencyDecoderUNet extends UNet2DModel {
  static override readonly name: string = "UNet2DModel";
  private readonly makeSession: MakeSession;

  /** @throws UnsupportedModelError and ValueError as UNet2DModel, in the names of the model it is part of. */
  constructor(className: string, config: Partial<UNet2DModelConfig>, makeSession: MakeSession) {
    try {
      super(config);
    } catch (error) {
      throw renamed(className, error);
    }
    this.makeSession = makeSession;
  }

  protected override session(name: string, dims: unknown, build: EmitGraph): Promise<Runner> {
    return this.makeSession(name, dims, (g) => withPrefix(g, build));
  }

  /** {@link UNet2DModel.check}, for the model that it is part of. */
  checkWithin(build: (emit: EmitGraph) => void): void {
    this.check((emit) => build((g) => withPrefix(g, emit)));
  }
}

function withPrefix(g: GraphBuilder, emit: EmitGraph): void {
  const { weights } = g;
  const own: WeightSource = {
    file: weights.file,
    shape: (name) => weights.shape(prefix + name),
    dtype: (name) => weights.dtype(prefix + name),
    read: (name, as) => weights.read(prefix + name, as),
    names: () =>
      [...weights.names()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length)),
  };
  g.withWeights(own, prefix, () => emit(g));
}

/** What is wrong with the UNet's config, as an error about the config that it comes from. */
function renamed(className: string, error: unknown): unknown {
  if (!(error instanceof UnsupportedModelError || error instanceof ValueError)) return error;
  const { field = "" } = error.details;
  const Same = error.constructor as new (message: string, details: object, options: ErrorOptions) => DiffusersWebError;
  return new Same(
    `${className}'s decoder (\`decoder_${field}\` is its \`${field}\`): ${error.message}`,
    { ...error.details, className, field: `decoder_${field}` },
    { cause: error },
  );
}
