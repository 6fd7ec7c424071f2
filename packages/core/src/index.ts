export { makeCallable } from "./callable.ts";
export * from "./configuration_utils.ts";
export * from "./errors.ts";
export * from "./hub/source.ts";
export { isNode, nodeImport } from "./node.ts";
