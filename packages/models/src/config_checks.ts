import { UnsupportedModelError, ValueError } from "@diffusers-web/core";

/**
 * Refuses a config value whose graph is not built.
 *
 * @throws UnsupportedModelError naming the class and the field, unless the value is one of `built`.
 */
export function checkValue(className: string, field: string, value: unknown, built: readonly unknown[]): void {
  if (built.includes(value)) return;
  const known = built.map((item) => JSON.stringify(item)).join(", ");
  throw new UnsupportedModelError(
    `${className} has \`${field}\`: ${JSON.stringify(value)} in its config, which is not built. Known: ${known}.`,
    { className, field, found: JSON.stringify(value), expected: known },
  );
}

/** @throws ValueError unless the list has as many entries as there are blocks. */
export function checkLength(
  className: string,
  field: string,
  list: readonly unknown[],
  blocks: readonly string[],
): void {
  if (list.length === blocks.length) return;
  throw new ValueError(
    `${className} must have as many entries in \`${field}\` as in \`down_block_types\`: ` +
      `found ${list.length} and ${blocks.length}.`,
    { className, field, found: `${list.length} entries`, expected: `${blocks.length} entries` },
  );
}

/** A value per block, of a config field that holds one for all of them or a list. */
export function perBlock<T>(value: T | readonly T[], blocks: readonly string[]): readonly T[] {
  return Array.isArray(value) ? (value as readonly T[]) : blocks.map(() => value as T);
}
