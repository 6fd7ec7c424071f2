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

/** A deep copy, frozen if asked, that keeps what is known of ints and floats. */
export function copyJson<T>(value: T, freeze = false): T {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  const copy = Array.isArray(value)
    ? value.map((item) => copyJson(item, freeze))
    : Object.fromEntries(Object.entries(value).map(([key, item]) => [key, copyJson(item, freeze)]));
  const floats = floatKeys.get(value);
  if (floats !== undefined) floatKeys.set(copy, floats);
  return (freeze ? Object.freeze(copy) : copy) as T;
}

/**
 * Parses JSON that Python wrote.
 *
 * @throws SyntaxError with the position, for text that is not JSON.
 */
export function parsePythonJson(text: string): unknown {
  let at = 0;
  const fail = (what: string): never => {
    throw new SyntaxError(`${what} at position ${at} of the JSON text`);
  };
  const skipSpace = (): void => {
    while (at < text.length && /\s/.test(text[at]!)) at++;
  };
  const literals: [string, unknown][] = [
    ["true", true],
    ["false", false],
    ["null", null],
    ["NaN", Number.NaN],
    ["Infinity", Number.POSITIVE_INFINITY],
    ["-Infinity", Number.NEGATIVE_INFINITY],
  ];
  let isFloat = false;
  const parseString = (): string => {
    const start = at++;
    while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
    if (at >= text.length) fail("Unterminated string");
    at++;
    return JSON.parse(text.slice(start, at)) as string;
  };
  const parseValue = (): unknown => {
    skipSpace();
    isFloat = false;
    const c = text[at];
    if (c === '"') return parseString();
    if (c === "{") return parseContainer("}");
    if (c === "[") return parseContainer("]");
    for (const [word, value] of literals) {
      if (text.startsWith(word, at)) {
        at += word.length;
        isFloat = typeof value === "number";
        return value;
      }
    }
    const match = /^-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/.exec(text.slice(at, at + 400));
    if (match === null) return fail(c === undefined ? "Unexpected end" : `Unexpected ${JSON.stringify(c)}`);
    at += match[0].length;
    isFloat = match[1] !== undefined || match[2] !== undefined;
    return Number(match[0]);
  };
  const parseContainer = (close: "}" | "]"): unknown => {
    at++;
    const object: Record<string, unknown> = {};
    const array: unknown[] = [];
    const floats: string[] = [];
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
        if (isFloat) floats.push(key);
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

/** `json.dumps(value, indent=2, sort_keys=True)`: keys sorted by code point, non-ASCII escaped. */
export function stringifyPythonJson(value: unknown, indent = ""): string {
  const inner = `${indent}  `;
  if (value === null || value === undefined) return "null";
  if (typeof value === "string") {
    return JSON.stringify(value).replace(
      /[\u007f-\uffff]/g,
      (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  }
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : formatFloat(value);
  if (typeof value !== "object") return String(value);
  const floats = floatKeys.get(value);
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    // A list with one fraction in it is a list of floats, unless its text said otherwise.
    const allFloats = floats === undefined && value.some((x) => typeof x === "number" && !Number.isInteger(x));
    const items = value.map((item, i) =>
      typeof item === "number" && (allFloats || floats?.has(String(i)))
        ? formatFloat(item)
        : stringifyPythonJson(item, inner),
    );
    return `[\n${items.map((item) => inner + item).join(",\n")}\n${indent}]`;
  }
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  if (entries.length === 0) return "{}";
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  const lines = entries.map(([key, item]) => {
    const text = typeof item === "number" && floats?.has(key) ? formatFloat(item) : stringifyPythonJson(item, inner);
    return `${inner}${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${lines.join(",\n")}\n${indent}}`;
}
