/**
 * Turns an instance into a function that runs its `forward`, as calling a torch module does. What comes back has the
 * instance's prototype and own properties, so `instanceof`, getters and subclass fields work on it. For use as
 * `return makeCallable(this, ...)` in a base constructor; classes above it must not use `#private` fields, which stay
 * with the original object.
 */
export function makeCallable<T extends object>(instance: T, call: (self: T, args: unknown[]) => unknown): T {
  const callable = (...args: unknown[]): unknown => call(self, args);
  const self = callable as unknown as T;
  // A function's own `name` and `length` would show through as the instance's.
  delete (callable as { name?: string }).name;
  delete (callable as { length?: number }).length;
  Object.setPrototypeOf(callable, Object.getPrototypeOf(instance));
  Object.defineProperties(callable, Object.getOwnPropertyDescriptors(instance));
  return self;
}
