/** The bytes that all files of these tests have from `begin` to `end`. */
export function bytesOf(begin: number, end: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(end - begin);
  for (let i = begin; i < end; i++) bytes[i - begin] = i ^ ((i >>> 8) * 31) ^ ((i >>> 16) * 17);
  return bytes;
}
