/** A JSON file that is packed with gzip. A server may send it as an encoded response, which then arrives unpacked. */
export async function fetchGzipJson(url: string): Promise<unknown> {
  const blob = await (await fetch(url)).blob();
  const [first] = new Uint8Array(await blob.slice(0, 1).arrayBuffer());
  const stream = first === 0x1f ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
  return new Response(stream).json();
}
