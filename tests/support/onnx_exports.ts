import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiffusersWebError } from "@diffusers-web/core";
import { afterAll, expect } from "vitest";
import { fixturePath } from "./fixtures.ts";

/** Where {@link checkpoint} makes its copies; removed after the tests of the file. */
export const exportsFolder: string = mkdtempSync(join(tmpdir(), "onnx-"));
afterAll(() => rmSync(exportsFolder, { recursive: true, force: true }));

/** An export with the tokenizer and scheduler of the original, changed. */
export function checkpoint(layout: string, change: (path: (file: string) => string) => void = () => {}): string {
  const path = mkdtempSync(join(exportsFolder, `${layout}-`));
  cpSync(fixturePath(`onnx/${layout}`), path, { recursive: true });
  for (const part of ["tokenizer", "scheduler"])
    cpSync(fixturePath(`pipelines/sd1-tiny/${part}`), join(path, part), { recursive: true });
  change((file) => join(path, file));
  return path;
}

/** What a promise is rejected with, which has to be one of this library's errors. */
export async function failure(promise: Promise<unknown>): Promise<DiffusersWebError> {
  const error = await promise.then(
    () => new Error("it did not fail"),
    (caught: unknown) => caught,
  );
  expect(error, String(error)).toBeInstanceOf(DiffusersWebError);
  return error as DiffusersWebError;
}
