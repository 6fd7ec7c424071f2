import type { Owner } from "./remote_objects.ts";

/**
 * Who is told what is done to what stands for a pipeline or a component in a worker. In a file of its own, so that a page
 * that has none pays for no more than this.
 */
export const remotes: WeakMap<object, Owner> = /* @__PURE__ */ new WeakMap();
