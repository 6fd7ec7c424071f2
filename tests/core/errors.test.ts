import {
  checkOptions,
  DeviceError,
  DiffusersWebError,
  deserializeError,
  IntegrityError,
  ModelNotFoundError,
  makeCallable,
  nearest,
  QuotaError,
  serializeError,
  UnsupportedModelError,
  ValueError,
  WeightsMismatchError,
  WorkerError,
} from "@diffusers-web/core";
import { describe, expect, test } from "vitest";

const details = { file: "a/b.json", found: "x", expected: "y", tensors: ["a.weight"], className: "C", field: "f" };
/** As `postMessage` hands it on. */
const sent = (error: unknown): Error => deserializeError(structuredClone(serializeError(error)));

describe("our errors", () => {
  test.each([
    [ModelNotFoundError, "ModelNotFoundError", "MODEL_NOT_FOUND"],
    [UnsupportedModelError, "UnsupportedModelError", "UNSUPPORTED_MODEL"],
    [WeightsMismatchError, "WeightsMismatchError", "WEIGHTS_MISMATCH"],
    [IntegrityError, "IntegrityError", "INTEGRITY"],
    [QuotaError, "QuotaError", "QUOTA"],
    [DeviceError, "DeviceError", "DEVICE"],
    [WorkerError, "WorkerError", "WORKER"],
    [ValueError, "ValueError", "VALUE"],
  ] as const)("%o has its name and code, and crosses a worker", (cls, name, code) => {
    const cause = new Error("inner");
    const error = new cls("what happened", details, { cause });
    expect(error).toMatchObject({ name, code, message: "what happened", details, cause });
    expect(error).toBeInstanceOf(Error);
    expect(error).toBeInstanceOf(DiffusersWebError);
    expect(new cls("x").details).toEqual({});

    const copy = sent(error);
    expect(copy).toBeInstanceOf(cls);
    expect(copy).toMatchObject({ name, code, message: "what happened", details });
    expect(copy.stack).toBe(error.stack);
  });
});

describe("other errors cross by name", () => {
  test.each<[Error, new (...args: never[]) => Error]>([
    [new TypeError("t"), TypeError],
    [new RangeError("r"), RangeError],
    [new DOMException("cancelled", "AbortError"), DOMException],
    [new DOMException("late", "TimeoutError"), DOMException],
    [new DOMException("full", "QuotaExceededError"), DOMException],
    [new SyntaxError("s"), Error],
    [Object.assign(new Error("c"), { name: "CustomError" }), Error],
  ])("%o", (error, cls) => {
    const copy = sent(error);
    expect(copy).toBeInstanceOf(cls);
    expect([copy.name, copy.message]).toEqual([error.name, error.message]);
  });

  test.each([
    ["a string", "a string"],
    [undefined, "undefined"],
    [null, "null"],
    [{ code: "VALUE" }, "[object Object]"],
  ])("%o, thrown as it is", (thrown, message) => {
    expect(sent(thrown)).toMatchObject({ name: "Error", message });
  });

  test("a code that is none of ours is no class", () => {
    for (const code of ["toString", "__proto__", "ENOENT"]) {
      expect(deserializeError({ name: "Error", message: "m", code })).toMatchObject({ name: "Error", message: "m" });
    }
  });
});

describe("nearest", () => {
  const options = ["num_inference_steps", "guidance_scale", "negative_prompt", "eta", "generator"];
  test.each([
    ["num_inference_step", "num_inference_steps"],
    ["guidance", "guidance_scale"],
    ["guidanceScale", "guidance_scale"],
    ["negativ_prompt", "negative_prompt"],
    ["Eta", "eta"],
    ["generater", "generator"],
    ["xyzzy", undefined],
    ["", undefined],
  ])("%j is near %j", (word, expected) => {
    expect(nearest(word, options)).toBe(expected);
  });
});

describe("checkOptions", () => {
  test("known ones pass", () => {
    expect(() => checkOptions("f", { a: 1, b: undefined }, ["a", "b"])).not.toThrow();
    expect(() => checkOptions("f", {}, [])).not.toThrow();
  });
  test.each([
    [{ alpa: 1 }, "f got an unknown option `alpa`. Did you mean `alpha`?"],
    [{ qqqqqqq: 1 }, "f got an unknown option `qqqqqqq`. Known options: alpha, beta."],
    [{ toString: 1 }, "f got an unknown option `toString`. Known options: alpha, beta."],
  ])("%j is refused", (options, message) => {
    expect(() => checkOptions("f", options, ["alpha", "beta"])).toThrow(new TypeError(message));
  });
});

describe("makeCallable", () => {
  class Base {
    factor = 2;
    constructor() {
      // biome-ignore lint/correctness/noConstructorReturn: an instance that can be called.
      return makeCallable(this, (self, args) => self.forward(...(args as [number])));
    }
    forward(x: number): number {
      return x * this.factor;
    }
    get double(): number {
      return this.factor * 2;
    }
  }
  // biome-ignore lint/correctness/noUnusedVariables: one with the class above.
  interface Base {
    (x: number): number;
  }
  class Derived extends Base {
    offset = 1;
    label = "mine";
    override forward(x: number): number {
      return super.forward(x) + this.offset;
    }
  }

  test("an instance is called as a function, with its fields, getters and class", () => {
    const derived = new Derived();
    expect(derived(3)).toBe(7);
    derived.factor = 10;
    expect(derived(3)).toBe(31);
    expect([derived.double, derived.label, (derived as { length?: number }).length]).toEqual([20, "mine", undefined]);
    expect(derived).toBeInstanceOf(Derived);
    expect(derived.constructor.name).toBe("Derived");
    expect(new Base()(4)).toBe(8);
  });
});
