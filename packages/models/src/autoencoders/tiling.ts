import { Tensor, ValueError } from "@diffusers-web/core";

/** How a picture is cut into tiles, and joined from what they become. */
export interface TileGrid {
  /** Height and width of a tile; those at the right and at the bottom are cut off by the border. */
  readonly size: number;
  /** From one tile's beginning to the next one's. */
  readonly stride: number;
  /** How many rows (columns) of a result are blended with the one above (to the left). */
  readonly blendExtent: number;
  /** How many rows and columns of a result are kept. */
  readonly rowLimit: number;
}

/** The fields of an autoencoder that say how it tiles. */
export interface TileFields {
  readonly tile_sample_min_size: number;
  readonly tile_latent_min_size: number;
  readonly tile_overlap_factor: number;
}

/**
 * The tiles of a way through an autoencoder.
 *
 * @param from which size the input's tiles have; the output's have the other one
 * @throws ValueError for fields that give no tiles.
 */
export function tileGrid(className: string, fields: TileFields, from: "sample" | "latent"): TileGrid {
  const { tile_sample_min_size, tile_latent_min_size, tile_overlap_factor: factor } = fields;
  for (const field of ["tile_sample_min_size", "tile_latent_min_size"] as const) {
    if (Number.isInteger(fields[field]) && fields[field] >= 1) continue;
    throw invalid(className, field, fields[field], "a whole number of at least 1");
  }
  const [size, other] =
    from === "sample" ? [tile_sample_min_size, tile_latent_min_size] : [tile_latent_min_size, tile_sample_min_size];
  const stride = Math.trunc(size * (1 - factor));
  const blendExtent = Math.trunc(other * factor);
  if (!(stride >= 1 && blendExtent < other)) {
    throw invalid(className, "tile_overlap_factor", factor, `less than 1, with tiles of ${size} that still advance`);
  }
  return { size, stride, blendExtent, rowLimit: other - blendExtent };
}

function invalid(className: string, field: string, found: number, expected: string): ValueError {
  return new ValueError(`${className} cannot tile with \`${field}\` ${found}: it has to be ${expected}.`, {
    className,
    field,
    found: String(found),
    expected,
  });
}

/** A tile: its place in the grid, and its part of the picture. */
export interface Tile {
  readonly row: number;
  readonly column: number;
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

/**
 * Runs a picture tile by tile, and joins the results, blended where they overlap.
 *
 * @param x `[batch, channels, height, width]`
 * @param run what a tile becomes. Tiles of one size come one after the other, since each size is a graph of its own
 * @see Diffusers `AutoencoderKL.tiled_decode`
 */
export async function runTiled(x: Tensor, grid: TileGrid, run: (tile: Tensor) => Promise<Tensor>): Promise<Tensor> {
  const rows: Tensor[][] = [];
  for (const { row, column, top, bottom, left, right } of tilesBySize(x, grid)) {
    const result = await run(x.slice(null, null, [top, bottom], [left, right]));
    rows[row] ??= [];
    // A copy: it is blended in place.
    rows[row][column] = result.clone();
  }

  const { blendExtent, rowLimit } = grid;
  const joined = rows.map((row, i) => {
    const kept = row.map((tile, j) => {
      if (i > 0) blendV(rows[i - 1]![j]!, tile, blendExtent);
      if (j > 0) blendH(row[j - 1]!, tile, blendExtent);
      return tile.slice(null, null, [0, rowLimit], [0, rowLimit]);
    });
    return Tensor.cat(kept, 3);
  });
  return Tensor.cat(joined, 2);
}

/**
 * The tiles of a picture, those of one size together; else in order.
 *
 * @param x `[batch, channels, height, width]`
 */
export function tilesBySize(x: Tensor, { size, stride }: Pick<TileGrid, "size" | "stride">): Tile[] {
  const [, , height, width] = x.dims as [number, number, number, number];
  const groups = new Map<string, Tile[]>();
  for (let row = 0; row * stride < height; row++) {
    for (let column = 0; column * stride < width; column++) {
      const [top, left] = [row * stride, column * stride];
      const [bottom, right] = [Math.min(top + size, height), Math.min(left + size, width)];
      const key = `${bottom - top}x${right - left}`;
      const group = groups.get(key) ?? [];
      group.push({ row, column, top, bottom, left, right });
      groups.set(key, group);
    }
  }
  return [...groups.values()].flat();
}

/** Fades the last rows of `above` into the first rows of `tile`, in place. @see Diffusers `AutoencoderKL.blend_v` */
function blendV(above: Tensor, tile: Tensor, extent: number): void {
  const [, , height, width] = tile.dims as [number, number, number, number];
  const heightAbove = above.dims[2]!;
  const rows = Math.min(heightAbove, height, extent);
  const planes = tile.dims[0]! * tile.dims[1]!;
  for (let plane = 0; plane < planes; plane++) {
    for (let y = 0; y < rows; y++) {
      const from = (plane * heightAbove + heightAbove - rows + y) * width;
      const to = (plane * height + y) * width;
      for (let x = 0; x < width; x++) {
        tile.data[to + x] = above.data[from + x]! * (1 - y / rows) + tile.data[to + x]! * (y / rows);
      }
    }
  }
}

/** Fades the last columns of `before` into the first columns of `tile`, in place. @see Diffusers `AutoencoderKL.blend_h` */
function blendH(before: Tensor, tile: Tensor, extent: number): void {
  const [batch, channels, height, width] = tile.dims as [number, number, number, number];
  const widthBefore = before.dims[3]!;
  const columns = Math.min(widthBefore, width, extent);
  const lines = batch * channels * height;
  for (let line = 0; line < lines; line++) {
    const from = (line + 1) * widthBefore - columns;
    const to = line * width;
    for (let x = 0; x < columns; x++) {
      tile.data[to + x] = before.data[from + x]! * (1 - x / columns) + tile.data[to + x]! * (x / columns);
    }
  }
}
