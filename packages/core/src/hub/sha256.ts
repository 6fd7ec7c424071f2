import { createSHA256, type IHasher } from "hash-wasm";

/** A sha256 that is taken piece by piece, and whose state can be kept between the pieces. */
export class Sha256 {
  private constructor(private readonly hasher: IHasher) {}

  /**
   * @param state what {@link save} gave, to go on from there
   * @returns undefined when that state is none of this hasher: it was kept by another version
   */
  static async create(state?: Uint8Array): Promise<Sha256 | undefined> {
    const hasher = (await createSHA256()).init();
    if (state !== undefined) {
      try {
        hasher.load(state);
      } catch {
        return undefined;
      }
    }
    return new Sha256(hasher);
  }

  update(bytes: Uint8Array): void {
    this.hasher.update(bytes);
  }

  /** The state after the bytes so far, about a hundred bytes. */
  save(): Uint8Array {
    return this.hasher.save();
  }

  /** In hexadecimal. Nothing can be added afterwards. */
  digest(): string {
    return this.hasher.digest("hex");
  }
}

/** Git's name for a file of this content; undefined where the page may not use `crypto.subtle` (plain HTTP). */
export async function gitBlobId(bytes: Uint8Array<ArrayBuffer>): Promise<string | undefined> {
  // Typed as always there, but missing outside secure contexts.
  const subtle = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  if (subtle === undefined) return undefined;
  const header = new TextEncoder().encode(`blob ${bytes.length}\0`);
  const whole = new Uint8Array(header.length + bytes.length);
  whole.set(header);
  whole.set(bytes, header.length);
  const digest = new Uint8Array(await subtle.digest("SHA-1", whole));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
