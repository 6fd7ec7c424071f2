import { ConfigMixin, configDefaults, type FrozenConfig, float } from "@diffusers-web/core";
import { expect, test } from "vitest";

interface ThingConfig {
  n: number;
  scale: number;
  name: string | null;
}
class Thing extends ConfigMixin<ThingConfig> {
  static override readonly config_defaults: Readonly<ThingConfig> = configDefaults<ThingConfig>({
    n: 3,
    scale: float(1),
    name: null,
  });
}
test("repr", () => {
  const c: FrozenConfig<ThingConfig> = new Thing({ scale: 2 }).config;
  expect(c.scale).toBe(2);
  expect(`${new Thing({ scale: 2 })}`).toBe(
    'Thing {\n  "_class_name": "Thing",\n  "_diffusers_version": "0.42.1",\n  "n": 3,\n  "name": null,\n  "scale": 2.0\n}\n',
  );
  expect(`${Thing.from_config(c)}`).toContain('"scale": 2.0');
});
