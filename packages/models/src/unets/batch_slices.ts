import { DeviceError, Tensor, ValueError } from "@diffusers-web/core";

/** How many items of a batch run at a time: all (null), at most so many, or as many as the device turns out to take ("auto"). */
export type BatchSlice = "auto" | number | null;

type Feeds = Readonly<Record<string, Tensor>>;

/** @throws ValueError for what is neither "auto" nor null nor a whole number from 1. */
export function checkBatchSlice(slice: BatchSlice, className: string): BatchSlice {
  if (slice === null || slice === "auto" || (Number.isInteger(slice) && slice >= 1)) return slice;
  const expected = '"auto", null or a whole number from 1';
  throw new ValueError(`${className}.set_batch_slice: found ${JSON.stringify(slice)}, expected ${expected}.`, {
    className,
    field: "slice_size",
    found: JSON.stringify(slice),
    expected,
  });
}

/** Runs batches in parts. */
export class BatchSlices {
  private readonly slice: BatchSlice;
  /** With "auto": how many items the device took at last. */
  private most = Number.POSITIVE_INFINITY;

  constructor(slice: BatchSlice) {
    this.slice = slice;
    if (typeof slice === "number") this.most = slice;
  }

  /**
   * @param feeds a UNet's inputs for the batch
   * @param run computes the output of a part
   * @throws DeviceError when the device fails, and with "auto" when it does so at a single item
   */
  async run(feeds: Feeds, batch: number, run: (part: Feeds) => Promise<Tensor>): Promise<Tensor> {
    const size = partSize(batch, this.most);
    try {
      const outputs: Tensor[] = [];
      for (const part of size === batch ? [feeds] : batchParts(feeds, batch, size)) outputs.push(await run(part));
      return outputs.length === 1 ? outputs[0]! : Tensor.cat(outputs);
    } catch (error) {
      // What the device has room for is not told beforehand, only by its failing.
      if (this.slice !== "auto" || size === 1 || !(error instanceof DeviceError)) throw error;
      this.most = Math.floor(size / 2);
      console.warn(
        `The device failed at ${size} items at once (${error.message}): going on with ${partSize(batch, this.most)}.`,
      );
    }
    return this.run(feeds, batch, run);
  }
}

/** The largest part, of at most `most`, that a batch is a multiple of: with parts alike, one session serves them all. */
function partSize(batch: number, most: number): number {
  let size = Math.min(batch, most);
  while (batch % size !== 0) size -= 1;
  return size;
}

/** A UNet's inputs for a batch as its inputs for equal parts of it. */
function batchParts(feeds: Feeds, batch: number, size: number): readonly Feeds[] {
  const count = batch / size;
  const cut = Object.entries(feeds).map(([name, feed]) => [name, partsOf(name, feed, batch, count)] as const);
  return Array.from({ length: count }, (_, i) => Object.fromEntries(cut.map(([name, parts]) => [name, parts[i]!])));
}

/** Each input begins with the batch, but for the scales of IP-Adapters, and their masks: `[pictures, batch * pixels]`. */
function partsOf(name: string, feed: Tensor, batch: number, count: number): readonly Tensor[] {
  if (name.startsWith("ip_mask_")) return feed.chunk(count, 1);
  if (name.startsWith("ip_scale_") || feed.dims[0] !== batch) return new Array<Tensor>(count).fill(feed);
  return feed.chunk(count);
}
