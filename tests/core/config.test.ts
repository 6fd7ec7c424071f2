/** The config mixin and Python's JSON. Expected values: tests/fixtures/core/make_config.py. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import {
  ConfigMixin,
  configDefaults,
  type FrozenConfig,
  float,
  IntegrityError,
  ModelNotFoundError,
  openSource,
  ValueError,
} from "@diffusers-web/core";
import { afterAll, afterEach, describe, expect, expectTypeOf, test, vi } from "vitest";
import { formatFloat, parsePythonJson, stringifyPythonJson } from "../../packages/core/src/python_json.ts";
import { fixtureText } from "../support/fixtures.ts";

type Step = ["new" | "again" | "register", Partial<ThingConfig>] | ["json", string] | ["typed", object];
const fixture = JSON.parse(fixtureText("core/config.json")) as {
  floats: [json: string, repr: string][];
  texts: [text: string, rewritten: string | null][];
  reprs: Record<string, string>;
  things: [Step[], string][];
};

interface ThingConfig {
  n: number;
  scale: number;
  name: string | null;
  sizes: readonly number[];
  rates: readonly number[];
  flag: boolean;
  limit: number;
  betas: ArrayLike<number> | null;
}

class Thing extends ConfigMixin<ThingConfig> {
  static override readonly config_name: string = "thing.json";
  static override readonly config_defaults: Readonly<ThingConfig> = configDefaults<ThingConfig>({
    n: 3,
    scale: float(1),
    name: null,
    sizes: [1, 2],
    rates: [0.5, 1],
    flag: true,
    limit: Number.NEGATIVE_INFINITY,
    betas: null,
  });
}

/** Has other fields; the two take each other's configs. */
interface OtherConfig {
  scale: number;
  gamma: number;
  ratios: readonly number[];
}
class Other extends ConfigMixin<OtherConfig> {
  static override readonly config_name: string = "thing.json";
  static override readonly compatible_fields: readonly string[] = Object.keys(Thing.config_defaults);
  static override readonly config_defaults: Readonly<OtherConfig> = configDefaults<OtherConfig>({
    scale: float(8),
    gamma: float(2),
    ratios: [float(1), 2],
  });
}

const folder = mkdtempSync(join(tmpdir(), "config-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  vi.restoreAllMocks();
});
const silent = () => vi.spyOn(console, "warn").mockImplementation(() => {});

describe("Python's JSON", () => {
  test("floats print as repr prints them", () => {
    const printed = fixture.floats.map(([json]) => formatFloat(parsePythonJson(json) as number));
    const named = { inf: "Infinity", "-inf": "-Infinity", nan: "NaN" };
    expect(printed).toEqual(fixture.floats.map(([, repr]) => named[repr as "inf"] ?? repr));
  });

  test.each(fixture.texts.filter(([, rewritten]) => rewritten !== null))(
    "%j is read and written",
    (text, rewritten) => {
      // A number alone has no container that would remember whether it is a float.
      const [value] = parsePythonJson(`[${text}]`) as unknown[];
      expect(stringifyPythonJson(parsePythonJson(`[${text}]`))).toBe(`[\n  ${rewritten!.replaceAll("\n", "\n  ")}\n]`);
      if (typeof value === "object" && value !== null)
        expect(stringifyPythonJson(parsePythonJson(text))).toBe(rewritten);
    },
  );

  test.each(fixture.texts.filter(([, rewritten]) => rewritten === null))("%j is refused", (text) => {
    expect(() => parsePythonJson(text)).toThrow(SyntaxError);
    expect(() => parsePythonJson(text)).toThrow(/at position \d+/);
  });

  test.each(Object.entries(fixture.reprs))("the config of %s survives", (_, text) => {
    expect(`${stringifyPythonJson(parsePythonJson(text))}\n`).toBe(text);
  });

  test("a key named __proto__ is a key", () => {
    const value = parsePythonJson('{"__proto__": {"polluted": 1}}') as object;
    expect(Object.keys(value)).toEqual(["__proto__"]);
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  test("a vocabulary of 50,000 entries is read in a moment", () => {
    const text = JSON.stringify(Object.fromEntries(Array.from({ length: 50_000 }, (_, i) => [`token${i}</w>`, i])));
    const start = performance.now();
    parsePythonJson(text);
    // It takes about 50 ms; seconds would mean that something is quadratic.
    expect(performance.now() - start).toBeLessThan(2000);
  });
});

test.each(fixture.things)("%j prints as in Python", (steps, expected) => {
  silent();
  let thing: Thing | undefined;
  for (const step of steps) {
    if (step[0] === "new") thing = new Thing(step[1]);
    else if (step[0] === "typed") {
      thing = new Thing({ betas: new Float32Array([0.5, 1, 2]), sizes: new Int32Array([1, 2]) as unknown as number[] });
    } else if (step[0] === "json") thing = Thing.from_config(parsePythonJson(step[1]) as object);
    else if (step[0] === "again") thing = Thing.from_config(thing!.config, step[1]);
    else thing!.register_to_config({ ...step[1] });
  }
  expect(`${thing}`).toBe(expected);
  expect(`Thing ${thing!.to_json_string()}`).toBe(expected);
});

describe("the config is frozen", () => {
  const thing = new Thing({ sizes: [4], betas: new Float32Array([1, 2]) });
  test.each<[string, () => unknown]>([
    ["replacing it", () => Object.assign(thing, { config: {} })],
    ["assigning a field", () => Object.assign(thing.config, { n: 1 })],
    ["adding a field", () => Object.assign(thing.config, { other: 1 })],
    ["deleting a field", () => Reflect.deleteProperty(thing.config, "n") || expect.fail("deleted")],
    ["changing a list", () => (thing.config.sizes as number[]).push(1)],
    ["changing a typed array", () => Object.assign(thing.config.betas as object, { 0: 9 })],
    ["changing the defaults", () => Object.assign(Thing.config_defaults, { n: 1 })],
    ["changing a default's list", () => (Thing.config_defaults.sizes as number[]).push(1)],
  ])("%s throws", (name, change) => {
    const before = `${thing}`;
    if (name === "deleting a field") expect(Reflect.deleteProperty(thing.config, "n")).toBe(false);
    else expect(change).toThrow(TypeError);
    expect(`${thing}`).toBe(before);
    expect(`${new Thing({ sizes: [4], betas: new Float32Array([1, 2]) })}`).toBe(before);
  });

  test("the message says what to do instead", () => {
    expect(() => Object.assign(thing, { config: {} })).toThrow(/Thing\.config is frozen.*Thing\.from_config/);
  });

  test("what the caller passed stays the caller's", () => {
    const sizes = [1, 2, 3];
    const config = { sizes };
    const own = new Thing(config);
    sizes.push(4);
    expect(own.config.sizes).toEqual([1, 2, 3]);
    expect(Object.isFrozen(config)).toBe(false);
    expect(Object.isFrozen(sizes)).toBe(false);
  });

  test("fields are typed", () => {
    expectTypeOf(thing.config).toEqualTypeOf<FrozenConfig<ThingConfig>>();
    expectTypeOf(thing.config.n).toEqualTypeOf<number>();
  });
});

describe("fields that a class does not have", () => {
  test.each<[string, () => unknown, RegExp]>([
    ["the constructor", () => new Thing({ scael: 1 } as object), /Thing .*`scael`.*`scale`/],
    ["from_config's overrides", () => Thing.from_config({}, { scael: 1 }), /Thing\.from_config .*`scael`.*`scale`/],
    ["nothing near", () => new Thing({ xyzzy: 1 } as object), /`xyzzy`\. Known options: n, scale/],
  ])("%s: a TypeError that names the nearest", (_, call, message) => {
    expect(call).toThrow(TypeError);
    expect(call).toThrow(message);
  });

  test.each<[string, object, string[]]>([
    ["a stray field of its own file", { _class_name: "Thing", scael: 1 }, ["scael"]],
    ["a stray field of a plain object", { n: 1, foo: 1, bar: 2 }, ["foo", "bar"]],
    ["fields of another class's file", { _class_name: "DDPMScheduler", beta_start: 1 }, []],
    ["private and quantization fields", { _foo: 1, quantization_config: {} }, []],
    ["all its own", { n: 1, scale: 2 }, []],
  ])("from_config warns of them by name: %s", (_, config, warned) => {
    const warn = silent();
    const thing = Thing.from_config(config);
    expect(warn.mock.calls.map(([message]) => /`(\w+)` was passed to Thing/.exec(String(message))?.[1])).toEqual(
      warned,
    );
    // Dropped, yet kept: the config round-trips.
    for (const key of warned) expect(thing.config[key]).toBe((config as Record<string, unknown>)[key]);
  });
});

describe("compatible classes", () => {
  test("there and back loses nothing, and defaults are each class's own", () => {
    const warn = silent();
    const thing = new Thing({ n: 9, name: "x" });
    const other = Other.from_config(thing.config);
    expect(other.config).toMatchObject({ n: 9, name: "x", scale: 8, gamma: 2 });
    expect(warn).not.toHaveBeenCalled();
    const back = Thing.from_config(other.config);
    expect({ ...back.config }).toMatchObject({ n: 9, name: "x", scale: 1 });
    expect(back.config["gamma"]).toBeUndefined(); // a default that nobody set is not handed on
    expect(`${Other.from_config(back.config)}`).toBe(`${other}`);
  });

  test("lists of whole floats print as floats", () => {
    expect(`${new Other()}`).toContain('"gamma": 2.0,\n  "ratios": [\n    1.0,\n    2.0\n  ],\n  "scale": 8.0');
  });
});

test("one of several classes makes one of theirs", () => {
  const cls = [Thing, Other][0] as typeof Thing | typeof Other;
  const made = cls.from_config({ scale: 3 });
  expectTypeOf(made).toEqualTypeOf<Thing | Other>();
  expectTypeOf(Thing.from_config(new Thing().config)).toEqualTypeOf<Thing>();
  expect(made.config.scale).toBe(3);
});

test("undefined is a field that was not passed", () => {
  expect(`${new Thing({ n: undefined } as object)}`).toBe(`${new Thing()}`);
  expect(`${Thing.from_config({ n: 4 }, { n: undefined })}`).toContain('"n": 4');
  expect(new Thing({ n: undefined } as object).config["_use_default_values"]).toContain("n");
});

test("a key named __proto__ in a config changes no prototype", () => {
  silent();
  const config = parsePythonJson('{"__proto__": {"n": 77}, "n": 5}') as object;
  const thing = Thing.from_config(config);
  expect(thing.config.n).toBe(5);
  expect(Object.getPrototypeOf(thing.config)).toBe(Object.prototype);
  expect(new Thing(config as object).config.n).toBe(5);
});

describe("from_config refuses", () => {
  test.each([undefined, null])("%s", (config) => {
    expect(() => Thing.from_config(config as unknown as object)).toThrow(ValueError);
  });
  test.each([3, { a: 1 }, true])("the class name %j", (_class_name) => {
    expect(() => Thing.from_config({ _class_name })).toThrow(ValueError);
  });
  test("a number", async () => {
    await expect(Thing.from_config(3 as unknown as string)).rejects.toThrow(TypeError);
  });
});

describe("files", () => {
  const thing = new Thing({ n: 9, name: "é狐🦊", limit: Number.NaN, betas: [0.5, 1] });

  test("save_config makes the folder and writes what is printed; load_config reads it", async () => {
    const path = join(folder, "a", "b");
    await thing.save_config(path);
    const text = readFileSync(join(path, "thing.json"), "utf8");
    expect(`Thing ${text}`).toBe(`${thing}`);
    const config = await Thing.load_config(path);
    expect(config["_class_name"]).toBe("Thing");
    expect(`${Thing.from_config(config)}`).toBe(`${thing}`);
    await thing.save_config(path); // again, over it
    expect(readFileSync(join(path, "thing.json"), "utf8")).toBe(text);
  });

  test("save_config into a directory handle", async () => {
    const written: string[] = [];
    const handle = {
      getFileHandle: async (name: string, { create }: { create: boolean }) => ({
        createWritable: async () => ({
          write: async (text: string) => void written.push(`${name} ${create} ${text}`),
          close: async () => void written.push("closed"),
        }),
      }),
    };
    await thing.save_config(handle as unknown as FileSystemDirectoryHandle);
    expect(written).toEqual([`thing.json true ${thing.to_json_string()}`, "closed"]);
  });

  test("save_config refuses a file", async () => {
    writeFileSync(join(folder, "file"), "");
    await expect(thing.save_config(join(folder, "file"))).rejects.toThrow(ValueError);
  });

  test("from_config of a place is a promise", async () => {
    const path = join(folder, "place", "sub");
    await thing.save_config(path);
    const places: [string | URL, object][] = [
      [path, {}],
      [join(path, "thing.json"), {}],
      [pathToFileURL(path), {}],
      [pathToFileURL(join(path, "thing.json")), {}],
      [join(folder, "place"), { subfolder: "sub" }],
    ];
    for (const [place, options] of places) {
      const promise = Thing.from_config(place, options);
      expectTypeOf(promise).toEqualTypeOf<Promise<Thing>>();
      expect(promise).toBeInstanceOf(Promise);
      expect(`${await promise}`).toBe(`${thing}`);
    }
    expect((await Thing.from_config(path, { n: 1 })).config.n).toBe(1);
    const source = await openSource(path);
    expect(`${await Thing.from_config({ ...source })}`).toBe(`${thing}`);
    await expect(Thing.from_config(path, { scael: 1 })).rejects.toThrow(/`scale`/);
  });

  test.each<[string, string | undefined, new (...args: never[]) => Error, RegExp]>([
    ["no file", undefined, ModelNotFoundError, /has no thing\.json, which Thing needs/],
    ["a truncated one", '{"n": 1, ', IntegrityError, /thing\.json .*not valid JSON.*position 9/],
    ["an empty one", "", IntegrityError, /thing\.json .*not valid JSON/],
    ["a list", "[1]", IntegrityError, /thing\.json .*a list/],
    ["null", "null", IntegrityError, /thing\.json .*null/],
    ["a page", "<!doctype html>", IntegrityError, /not valid JSON/],
    ["bytes that are no text", "\xff\xfe", IntegrityError, /thing\.json .*not UTF-8/],
  ])("%s is a typed error that names it", async (name, text, error, message) => {
    const path = mkdtempSync(join(folder, "broken-"));
    if (text !== undefined) writeFileSync(join(path, "thing.json"), text, "latin1");
    const loaded = Thing.load_config(path);
    await expect(loaded, name).rejects.toThrow(error);
    await expect(loaded).rejects.toThrow(message);
    await expect(loaded).rejects.toMatchObject({ details: { file: "thing.json" } });
  });
});
