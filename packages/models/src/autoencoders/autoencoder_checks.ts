import { type Tensor, ValueError } from "@diffusers-web/core";
import { checkValue } from "../config_checks.ts";
import { checkActivation } from "../layers/activations.ts";
import { checkBlocks, decoderBlocks, encoderBlocks } from "../unets/blocks/index.ts";
import type { TileGrid } from "./tiling.ts";

/** A config, as far as the checks know it: they say which of its fields they look at. */
type Config = Readonly<Record<string, unknown>>;

/** The fields of a config that describe one half of an autoencoder. */
export interface HalfFields {
  /** The list of blocks. */
  readonly blocks: string;
  /** The channels of each. */
  readonly channels: string;
  /** How many layers each has. */
  readonly layers: string;
  readonly act: string;
  readonly groups: string;
}

/**
 * Checks what a config says of its encoder or decoder.
 *
 * @param half whose blocks it may have
 * @throws UnsupportedModelError for a value that is not built, ValueError for one that Diffusers refuses as well.
 */
export function checkHalf(className: string, config: object, half: "encoder" | "decoder", fields: HalfFields): void {
  const values = config as Config;
  for (const field of [fields.blocks, fields.channels]) {
    if (Array.isArray(values[field]) && values[field].length > 0) continue;
    throw invalid(className, field, values[field], "a list with an entry for each block");
  }
  const blocks = values[fields.blocks] as readonly string[];
  const channels = values[fields.channels] as readonly number[];
  if (channels.length !== blocks.length) {
    throw new ValueError(
      `${className} must have as many entries in \`${fields.channels}\` as in \`${fields.blocks}\`: ` +
        `found ${channels.length} and ${blocks.length}.`,
      { className, field: fields.channels, found: `${channels.length} entries`, expected: `${blocks.length} entries` },
    );
  }
  checkBlocks(blocks, Object.keys(half === "encoder" ? encoderBlocks : decoderBlocks), className, fields.blocks);
  checkActivation(values[fields.act] as string, className, fields.act);
  checkCounts(className, config, [fields.layers], 0);
  const groups = values[fields.groups] as number;
  if (groups === null) checkValue(className, fields.groups, null, ["a number"]);
  checkCounts(className, config, [fields.groups]);
  for (const count of channels) {
    if (Number.isInteger(count) && count >= 1 && count % groups === 0) continue;
    throw new ValueError(
      `${className} has ${count} channels in \`${fields.channels}\`, which \`${fields.groups}\` ${groups} does not divide.`,
      { className, field: fields.groups, found: String(groups), expected: `a divisor of ${count}` },
    );
  }
}

/** @throws ValueError unless each of the fields is a whole number of at least `least`. */
export function checkCounts(className: string, config: object, fields: readonly string[], least = 1): void {
  for (const field of fields) {
    const value = (config as Config)[field];
    if (Number.isInteger(value) && (value as number) >= least) continue;
    throw invalid(className, field, value, `a whole number of at least ${least}`);
  }
}

/** @throws ValueError unless it is a size, or a height and a width. */
export function checkSampleSize(className: string, size: unknown): void {
  const sizes = Array.isArray(size) ? (size as unknown[]) : [size];
  if (sizes.length > 0 && sizes.every((one) => typeof one === "number" && one > 0)) return;
  throw invalid(className, "sample_size", size, "a number, or a height and a width");
}

function invalid(className: string, field: string, value: unknown, expected: string): ValueError {
  const found = JSON.stringify(value) ?? "nothing";
  return new ValueError(`${className} has \`${field}\`: ${found} in its config, which has to be ${expected}.`, {
    className,
    field,
    found,
    expected,
  });
}

/**
 * Checks that pictures are large enough to be encoded: each block but the last halves them.
 *
 * @param grid the tiles that they are cut into
 * @throws ValueError for smaller ones, or for a smaller tile at the border.
 */
export function checkLeast(className: string, x: Tensor, channels: readonly number[], grid?: TileGrid): void {
  const least = 2 ** (channels.length - 1);
  const sizes = [x.dims[2]!, x.dims[3]!].map((length) => {
    if (grid === undefined) return length;
    const last = length - (Math.ceil(length / grid.stride) - 1) * grid.stride;
    return Math.min(last, grid.size);
  });
  if (Math.min(...sizes) >= least) return;
  const [height, width] = sizes as [number, number];
  const what =
    grid === undefined
      ? `got [${x.dims}]`
      : `a tile at the border of [${x.dims}] is ${height}x${width}: use another size, or other tiles`;
  throw new ValueError(`${className} encodes pictures of at least ${least}x${least}, but ${what}.`, {
    className,
    field: "x",
    found: grid === undefined ? `[${x.dims}]` : `tiles of ${height}x${width}`,
    expected: `height and width of at least ${least}`,
  });
}
