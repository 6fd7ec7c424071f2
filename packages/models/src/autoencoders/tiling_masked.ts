import { Tensor, ValueError } from "@diffusers-web/core";
import { type Tile, tilesBySize } from "./tiling.ts";

/** How AutoencoderTiny tiles. */
export interface MaskedTiles {
  /** Height and width of a tile of the input. */
  readonly size: number;
  /** Size of the output relative to the input. */
  readonly scale: number;
  /** How much of a tile lies over the next one, as a fraction. */
  readonly overlap: number;
}

/**
 * Runs a picture tile by tile; each result is faded in over what lies to its left and above it.
 *
 * @param x `[batch, channels, height, width]`
 * @param run what a tile becomes
 * @throws ValueError for tiles that overlap too little to fade, or that do not advance.
 * @see Diffusers `AutoencoderTiny._tiled_decode`
 */
export async function runTilesMasked(
  className: string,
  x: Tensor,
  { size, scale, overlap }: MaskedTiles,
  run: (tile: Tensor) => Promise<Tensor>,
): Promise<Tensor> {
  const blend = Math.trunc(size * overlap);
  const stride = size - blend;
  const ramp = blend * scale - 1;
  if (!(size >= 1 && stride >= 1 && ramp > 0)) {
    const expected = "tiles that advance, and overlap by two values of the result or more";
    const found = `tiles of ${size} that overlap by ${blend}`;
    throw new ValueError(
      `${className} cannot tile with ${found}: it needs ${expected}. Change tile_sample_min_size, ` +
        "tile_latent_min_size or tile_overlap_factor.",
      { className, field: "tile_overlap_factor", found, expected },
    );
  }
  const [, , height, width] = x.dims as [number, number, number, number];
  const tiles: { readonly tile: Tile; readonly output: Tensor }[] = [];
  for (const tile of tilesBySize(x, { size, stride })) {
    const output = await run(x.slice(null, null, [tile.top, tile.bottom], [tile.left, tile.right]));
    tiles.push({ tile, output });
  }
  // Each is faded in over those before it.
  tiles.sort((a, b) => a.tile.row - b.tile.row || a.tile.column - b.tile.column);
  const [batch, channels] = tiles[0]!.output.dims as [number, number];
  // An odd last row or column is worked on by half: the result has one for it.
  const result = Tensor.zeros([batch, channels, Math.ceil(height * scale), Math.ceil(width * scale)]);
  for (const { tile, output } of tiles) {
    fadeIn(result, output, Math.floor(tile.top * scale), Math.floor(tile.left * scale), ramp);
  }
  return result;
}

/** Puts a tile into the result: the further from its upper and left edge, the more of it, unless these are the picture's. */
function fadeIn(result: Tensor, tile: Tensor, top: number, left: number, ramp: number): void {
  const [batch, channels, height, width] = result.dims as [number, number, number, number];
  const [, , tileHeight, tileWidth] = tile.dims as [number, number, number, number];
  const rows = Math.min(tileHeight, height - top);
  const columns = Math.min(tileWidth, width - left);
  for (let plane = 0; plane < batch * channels; plane++) {
    for (let y = 0; y < rows; y++) {
      const share = top === 0 ? 1 : Math.min(1, y / ramp);
      const to = (plane * height + top + y) * width + left;
      const from = (plane * tileHeight + y) * tileWidth;
      for (let x = 0; x < columns; x++) {
        const mask = share * (left === 0 ? 1 : Math.min(1, x / ramp));
        result.data[to + x] = mask * tile.data[from + x]! + (1 - mask) * result.data[to + x]!;
      }
    }
  }
}
