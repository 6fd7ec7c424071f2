import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { type FixtureTensor, parseTensors } from "./fixture_tensors.ts";

export type { FixtureTensor } from "./fixture_tensors.ts";

/** The path of a committed fixture, e.g. `fixturePath("schedulers/ddpm.safetensors")`. */
export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
}

export function fixtureText(name: string): string {
  return readFileSync(fixturePath(name), "utf8");
}

/** A fixture that is packed with gzip, as text. */
export function fixtureGzip(name: string): string {
  return gunzipSync(readFileSync(fixturePath(name))).toString("utf8");
}

/** All tensors of a committed safetensors file. */
export function fixtureTensors(name: string): Record<string, FixtureTensor> {
  return parseTensors(new Uint8Array(readFileSync(fixturePath(name))));
}
