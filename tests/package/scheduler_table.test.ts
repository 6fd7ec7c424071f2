import { readdirSync, readFileSync } from "node:fs";
import { schedulerRegistry } from "@diffusers-web/core";
import { expect, test } from "vitest";

const folder = "packages/core/src/schedulers";
const readme = readFileSync(`${folder}/README.md`, "utf8");

/** The cells of each row of the table whose first column is called Scheduler. */
function table(): string[][] {
  const lines = readme.split("\n");
  const start = lines.findIndex((line) => /^\| Scheduler +\|/.test(line));
  const end = lines.findIndex((line, i) => i > start && !line.startsWith("|"));
  return lines.slice(start, end).map((line) =>
    line
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim()),
  );
}

const [header = [], , ...rows] = table();

/** The scheduler of each scheduling_*.ts file, by what the file exports. */
const classes = readdirSync(folder)
  .filter((file) => /^scheduling_\w+\.ts$/.test(file) && file !== "scheduling_utils.ts")
  .map((file) => {
    const names = [...readFileSync(`${folder}/${file}`, "utf8").matchAll(/^export class (\w+Scheduler)\b/gm)];
    return { file, names: names.map((match) => match[1]!) };
  });

test("every scheduler file exports one scheduler, which the registry has", () => {
  expect(classes.filter(({ names }) => names.length !== 1)).toEqual([]);
  expect(classes.flatMap(({ names }) => names).sort()).toEqual(Object.keys(schedulerRegistry).sort());
});

test("every scheduler has one row in the table, and every row a scheduler", () => {
  const named = rows.map(([name]) => name!);
  expect(named.filter((name) => !/^`\w+Scheduler`$/.test(name))).toEqual([]);
  expect(named.map((name) => name.replaceAll("`", "")).sort()).toEqual(classes.flatMap(({ names }) => names).sort());
});

test("no cell is empty, papers are links, and what says stochastic or deterministic says so", () => {
  expect(header).toEqual(["Scheduler", "Paper", "Order", "Calls per step", "Noise", "Good for", "Steps"]);
  for (const row of rows) {
    expect(row.length, row[0]).toBe(header.length);
    expect(row.indexOf(""), row[0]).toBe(-1);
    const [, papers = "", order = "", calls = "", noise = "", , steps = ""] = row;
    const labels = [...papers.matchAll(/\[([^\]]+)\]/g)].map((match) => match[1]!);
    expect(labels.length, row[0]).toBeGreaterThan(0);
    for (const label of labels) {
      expect(readme).toMatch(new RegExp(`^\\[${label.replaceAll("+", "\\+")}\\]: https://\\S+$`, "m"));
    }
    expect(order, row[0]).toMatch(/^\d/);
    expect(calls, row[0]).toMatch(/^(about )?\d/);
    expect(noise, row[0]).toMatch(/^(deterministic|stochastic)/);
    expect(steps, row[0]).toMatch(/^\d/);
  }
});

test("a paper is defined once, and used", () => {
  const defined = [...readme.matchAll(/^\[([^\]]+)\]: /gm)].map((match) => match[1]!);
  expect(defined.filter((label, i) => defined.indexOf(label) !== i)).toEqual([]);
  expect(defined.filter((label) => !readme.includes(`[${label}],`) && !readme.includes(`[${label}] `))).toEqual([]);
});
