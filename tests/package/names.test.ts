import * as library from "@diffusers-web/pipelines";
import { expect, test } from "vitest";

/** Minifiers rename classes, and a class's name is in configs, model_index.json and reprs: it has to be written out. */
test("each class that a config names has its name written out", () => {
  const classes = Object.entries(library).filter(
    ([, value]) => typeof value === "function" && ("config_name" in value || "from_pretrained" in value),
  );
  expect(classes.length).toBeGreaterThan(12);
  for (const [name, value] of classes) {
    const own = Object.getOwnPropertyDescriptor(value, "name");
    // A class's name of its own making is read-only; a static field is not.
    expect(own, name).toMatchObject({ value: name, writable: true });
  }
});
