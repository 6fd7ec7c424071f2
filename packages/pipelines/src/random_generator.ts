import { Generator } from "@diffusers-web/core";

/** A generator with a seed of chance, which can be told. */
export function randomGenerator(): Generator {
  const generator = new Generator();
  generator.seed();
  return generator;
}
