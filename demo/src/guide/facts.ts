import readme from "../../../packages/core/src/schedulers/README.md?raw";
import { create } from "../dom.ts";

/** A row of the table of schedulers: heading and cell, both as Markdown, without the name. */
type Facts = readonly (readonly [heading: string, cell: string])[];

const links = new Map(Array.from(readme.matchAll(/^\[([^\]]+)\]: (\S+)$/gm), ([, name, url]) => [name!, url!]));
const facts = readTable(readme);

/** The one table whose first column is called Scheduler, by class. */
function readTable(text: string): Map<string, Facts> {
  const lines = text.split("\n");
  const start = lines.findIndex((line) => /^\| Scheduler\b/.test(line));
  const rest = lines.slice(start);
  const rows = rest
    .slice(
      0,
      rest.findIndex((line) => !line.startsWith("|")),
    )
    .map(cells);
  const [, ...headings] = rows[0] ?? [];
  return new Map(
    rows.slice(2).map(([name = "", ...values]) => {
      return [name.replaceAll("`", ""), headings.map((heading, i) => [heading, values[i] ?? ""] as const)];
    }),
  );
}

function cells(line: string): string[] {
  return line
    .slice(1, -1)
    .split("|")
    .map((cell) => cell.trim());
}

/** What the table says of a class, as a list of terms; nothing for a class it does not have. */
export function factsOf(name: string): HTMLElement | undefined {
  const row = facts.get(name);
  if (row === undefined) return undefined;
  const list = create("dl", { className: "facts" });
  for (const [heading, cell] of row) {
    const value = create("dd");
    value.append(...inline(cell));
    list.append(create("dt", { textContent: heading }), value);
  }
  return list;
}

/** The Markdown that cells have: `code` and links to the papers named below the table. */
function inline(text: string): (Node | string)[] {
  return text.split(/(`[^`]+`|\[[^\]]+\])/).map((part) => {
    if (part.startsWith("`")) return create("code", { textContent: part.slice(1, -1) });
    const href = part.startsWith("[") ? links.get(part.slice(1, -1)) : undefined;
    return href === undefined ? part : create("a", { href, textContent: part.slice(1, -1) });
  });
}
