/**
 * JSON as Python's `json` module reads and writes it: `NaN` and `Infinity` are values, and ints and floats are told
 * apart (`1` and `1.0`). JavaScript has one number type, so which numbers of an object or array are floats is kept
 * beside it, by identity.
 */
const floatKeys = new WeakMap<object, ReadonlySet<string>>();

/** Says which keys (or indices, as strings) of `container` hold Python floats. Returns the container. */
export function markFloats<T extends object>(container: T, keys: Iterable<string>): T {
  floatKeys.set(container, new Set(keys));
  return container;
}

/** The keys of `container` that hold Python floats; undefined when nothing is known of it. */
export function floatsOf(container: object): ReadonlySet<string> | undefined {
  return floatKeys.get(container);
}

/** A deep copy, frozen if asked, that keeps what is known of ints and floats. A typed array becomes a list. */
export function copyJson<T>(value: T, freeze = false): T {
  if (typeof value !== "object" || value === null) return value;
  if (ArrayBuffer.isView(value)) return copyJson(listOf(value), freeze) as T;
  if (hasConfig(value)) return value;
  const copy = Array.isArray(value)
    ? value.map((item) => copyJson(item, freeze))
    : Object.fromEntries(Object.entries(value).map(([key, item]) => [key, copyJson(item, freeze)]));
  const floats = floatKeys.get(value);
  if (floats !== undefined) floatKeys.set(copy, floats);
  return (freeze ? Object.freeze(copy) : copy) as T;
}

/** Whether `value` is an object with a config of its own (UniPC's `solver_p`): kept as it is, never written. */
function hasConfig(value: object): boolean {
  return typeof (value as { to_json_string?: unknown }).to_json_string === "function";
}

/** A typed array's numbers as a list, as numpy's `tolist` gives it: of floats, or of ints. */
function listOf(array: ArrayBufferView): number[] {
  const list = Array.from(array as Float64Array, Number);
  const floats = array instanceof Float32Array || array instanceof Float64Array;
  return markFloats(list, floats ? Object.keys(list) : []);
}

const literals: readonly [string, unknown][] = [
  ["true", true],
  ["false", false],
  ["null", null],
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
];

/**
 * Parses JSON that Python wrote.
 *
 * @throws SyntaxError with the position, for text that is not JSON.
 */
export function parsePythonJson(text: string): unknown {
  let at = 0;
  let isFloat = false;
  const number = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
  const plainString = /"[^"\\\p{Cc}]*"/uy;
  const fail = (what: string): never => {
    throw new SyntaxError(`${what} at position ${at} of the JSON text`);
  };
  const skipSpace = (): void => {
    for (let c = text[at]; c === " " || c === "\n" || c === "\r" || c === "\t"; c = text[at]) at++;
  };
  const parseString = (): string => {
    const start = at;
    plainString.lastIndex = start;
    if (plainString.test(text)) {
      at = plainString.lastIndex;
      return text.slice(start + 1, at - 1);
    }
    at++;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    if (at >= text.length) fail("Unterminated string");
    at++;
    try {
      return JSON.parse(text.slice(start, at)) as string;
    } catch {
      at = start;
      return fail("Invalid string");
    }
  };
  const parseValue = (): unknown => {
    skipSpace();
    isFloat = false;
    const c = text[at];
    if (c === '"') return parseString();
    if (c === "{") return parseContainer("}");
    if (c === "[") return parseContainer("]");
    number.lastIndex = at;
    const match = number.exec(text);
    if (match !== null) {
      at += match[0].length;
      isFloat = match[1] !== undefined || match[2] !== undefined;
      return Number(match[0]);
    }
    for (const [word, value] of literals) {
      if (text.startsWith(word, at)) {
        at += word.length;
        isFloat = typeof value === "number";
        return value;
      }
    }
    return fail(c === undefined ? "Unexpected end" : `Unexpected ${JSON.stringify(c)}`);
  };
  const parseContainer = (close: "}" | "]"): unknown => {
    at++;
    const object: Record<string, unknown> = {};
    const array: unknown[] = [];
    const floats = new Set<string>();
    skipSpace();
    if (text[at] === close) at++;
    else {
      for (;;) {
        let key = String(array.length);
        if (close === "}") {
          skipSpace();
          if (text[at] !== '"') fail("Expected a property name");
          key = parseString();
          skipSpace();
          if (text[at++] !== ":") fail("Expected ':'");
        }
        const value = parseValue();
        if (isFloat) floats.add(key);
        else floats.delete(key);
        if (close === "]") array.push(value);
        else Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
        skipSpace();
        const c = text[at++];
        if (c === close) break;
        if (c !== ",") fail(`Expected ',' or '${close}'`);
      }
    }
    isFloat = false;
    return markFloats(close === "}" ? object : array, floats);
  };
  const value = parseValue();
  skipSpace();
  if (at < text.length) fail("Unexpected text");
  return value;
}

/** A float as Python's `repr` prints it: `1.0`, `1e-05`, `1e+16`, `-Infinity`. */
export function formatFloat(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Object.is(value, -0)) return "-0.0";
  // Both languages print the shortest digits that round-trip; they differ in when they use an exponent.
  const [mantissa, exponentText] = value.toExponential().split("e") as [string, string];
  const exponent = Number(exponentText);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const fixed =
    exponent < 0 ? value.toFixed(Math.max(0, mantissa.replace(/^-?\d\.?/, "").length - exponent)) : String(value);
  return fixed.includes(".") ? fixed : `${fixed}.0`;
}

/** A string as `json.dumps` writes it: everything but printable ASCII is escaped. */
function formatString(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function formatInt(value: number): string {
  return Math.abs(value) < 1e21 ? String(value) : String(BigInt(value));
}

/** Orders by code points, as Python does; `<` compares UTF-16 units, which differs beyond U+FFFF. */
function byCodePoint(a: string, b: string): number {
  const [x, y] = [Array.from(a), Array.from(b)];
  const at = x.findIndex((c, i) => c !== y[i]);
  if (at < 0) return x.length - y.length;
  return x[at]!.codePointAt(0)! - (y[at]?.codePointAt(0) ?? -1);
}

/** `json.dumps(value, indent=2, sort_keys=True)`. @throws TypeError for a function or an object with a config of its own. */
export function stringifyPythonJson(value: unknown, indent = ""): string {
  const inner = `${indent}  `;
  if (value === null || value === undefined) return "null";
  if (typeof value === "string") return formatString(value);
  if (typeof value === "number") return Number.isInteger(value) ? formatInt(value) : formatFloat(value);
  if (typeof value === "function" || (typeof value === "object" && hasConfig(value))) {
    const what = typeof value === "function" ? "A function" : `A ${value.constructor.name}`;
    throw new TypeError(`${what} cannot be written as JSON: a config that holds one is not printed or saved.`);
  }
  if (typeof value !== "object") return String(value);
  if (ArrayBuffer.isView(value)) return stringifyPythonJson(listOf(value), indent);
  const floats = floatKeys.get(value);
  const format = (item: unknown, isFloat: boolean): string =>
    typeof item === "number" && isFloat ? formatFloat(item) : stringifyPythonJson(item, inner);
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    // A list with one fraction in it is a list of floats, unless its text said otherwise.
    const allFloats = floats === undefined && value.some((x) => typeof x === "number" && !Number.isInteger(x));
    const items = value.map((item, i) => inner + format(item, allFloats || floats?.has(String(i)) === true));
    return `[\n${items.join(",\n")}\n${indent}]`;
  }
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  if (entries.length === 0) return "{}";
  entries.sort(([a], [b]) => byCodePoint(a, b));
  const lines = entries.map(
    ([key, item]) => `${inner}${formatString(key)}: ${format(item, floats?.has(key) === true)}`,
  );
  return `{\n${lines.join(",\n")}\n${indent}}`;
}
