import { create } from "../dom.ts";
import { type Scale, shown } from "./scale.ts";

/** One curve of a chart. */
export interface Line {
  readonly label: string;
  /** Which of the colours it has. */
  readonly colour: number;
  readonly points: readonly { readonly x: number; readonly y: number }[];
  /** Why there is nothing to draw, where there is nothing. */
  readonly note?: string | undefined;
}

interface Axes {
  readonly x: Scale;
  readonly y: Scale;
}

/** Room for what is written at the axes, in pixels. */
const margin = { left: 46, right: 12, top: 10, bottom: 24 } as const;
/** With more points than that on a curve its dots would be one thick line. */
const MOST_DOTS = 64;

function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | number>,
  text = "",
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.textContent = text;
  return element;
}

/** Curves over a common axis, drawn in the pixels that there are, and a list of them with their values at the cursor. */
export class Chart {
  private readonly picture: SVGSVGElement;
  private readonly legend: HTMLElement;
  private lines: readonly Line[] = [];
  private axes: Axes | undefined;
  /** In pixels; none before the page is laid out. */
  private size: { readonly width: number; readonly height: number } = { width: 0, height: 0 };
  /** Of each line the index of the point at the cursor. */
  private marked: readonly (number | undefined)[] = [];
  private readonly marks = svg("g", { class: "marks" });

  /** @param point hears where on the x axis, from 0 to 1, the visitor points */
  constructor(picture: SVGSVGElement, legend: HTMLElement, point: (x: number) => void) {
    this.picture = picture;
    this.legend = legend;
    new ResizeObserver(([entry]) => {
      this.size = entry!.contentRect;
      this.paint();
    }).observe(picture);
    const report = ({ clientX }: PointerEvent): void => {
      const { left, width } = picture.getBoundingClientRect();
      const x = (clientX - left - margin.left) / (width - margin.left - margin.right);
      point(Math.min(1, Math.max(0, x)));
    };
    picture.addEventListener("pointermove", report);
    picture.addEventListener("pointerdown", report);
  }

  draw(lines: readonly Line[], axes: Axes, description: string): void {
    this.lines = lines;
    this.axes = axes;
    this.picture.setAttribute("aria-label", description);
    this.legend.replaceChildren(...lines.map(legendItem));
    this.paint();
  }

  /** Marks a point of each line; its value is written beside the line's name. */
  mark(indices: readonly (number | undefined)[]): void {
    this.marked = indices;
    for (const [i, output] of [...this.legend.querySelectorAll("output")].entries()) {
      const index = indices[i];
      const line = this.lines[i];
      output.value = line?.note ?? shown(index === undefined ? undefined : line?.points[index]?.y);
    }
    this.paintMarks();
  }

  private place({ x, y }: { readonly x: number; readonly y: number }): [number, number] {
    const across = margin.left + this.axes!.x.at(x) * (this.size.width - margin.left - margin.right);
    const up = (1 - this.axes!.y.at(y)) * (this.size.height - margin.top - margin.bottom);
    return [across, margin.top + up];
  }

  private paint(): void {
    if (this.axes === undefined || this.size.width === 0) return;
    const curves = this.lines.map((line) => this.curve(line));
    this.picture.replaceChildren(this.grid(), ...curves, this.marks);
    this.paintMarks();
  }

  private grid(): SVGGElement {
    const group = svg("g", { class: "grid" });
    const [right, bottom] = [this.size.width - margin.right, this.size.height - margin.bottom];
    for (const { value, text } of this.axes!.y.ticks) {
      const y = margin.top + (1 - this.axes!.y.at(value)) * (bottom - margin.top);
      group.append(svg("path", { d: `M${margin.left} ${y.toFixed(1)}H${right}` }));
      group.append(svg("text", { x: margin.left - 8, y: (y + 4).toFixed(1), class: "y" }, text));
    }
    for (const { value, text } of this.axes!.x.ticks) {
      const x = margin.left + this.axes!.x.at(value) * (right - margin.left);
      group.append(svg("path", { d: `M${x.toFixed(1)} ${bottom}v4` }));
      group.append(svg("text", { x: x.toFixed(1), y: bottom + 18, class: "x" }, text));
    }
    return group;
  }

  private curve({ points, colour, label }: Line): SVGGElement {
    const group = svg("g", { class: "curve", "data-colour": colour, "data-label": label });
    const places = points.map((point) => this.place(point)).filter(([, y]) => Number.isFinite(y));
    const at = places.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`);
    if (at.length === 0) return group;
    group.append(svg("path", { class: "line", d: `M${at.join("L")}` }));
    if (at.length <= MOST_DOTS)
      group.append(svg("path", { class: "dots", d: at.map((point) => `M${point}h0`).join("") }));
    return group;
  }

  private paintMarks(): void {
    this.marks.replaceChildren();
    if (this.axes === undefined || this.size.width === 0) return;
    for (const [i, { points, colour }] of this.lines.entries()) {
      const point = points[this.marked[i] ?? -1];
      if (point === undefined) continue;
      const [x, y] = this.place(point);
      if (!Number.isFinite(y)) continue;
      if (this.marks.childElementCount === 0) {
        const height = this.size.height - margin.bottom - margin.top;
        this.marks.append(svg("path", { class: "cursor", d: `M${x.toFixed(1)} ${margin.top}v${height}` }));
      }
      this.marks.append(svg("circle", { cx: x.toFixed(2), cy: y.toFixed(2), r: 4.5, "data-colour": colour }));
    }
  }
}

/** The stroke that a line is drawn with, its name, and room for a value. */
function legendItem({ label, colour }: Line): HTMLElement {
  const item = create("li");
  item.dataset["colour"] = String(colour);
  item.append(swatch(colour), create("span", { textContent: label, title: label }), create("output"));
  return item;
}

export function swatch(colour: number): SVGSVGElement {
  const picture = svg("svg", { class: "swatch", width: 26, height: 10, "aria-hidden": "true", "data-colour": colour });
  picture.append(svg("path", { class: "line", d: "M1 5H25" }));
  return picture;
}
