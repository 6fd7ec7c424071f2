const renames: readonly (readonly [RegExp, string])[] = [
  // Attention layers of the first releases.
  [/\.to_q\.(weight|bias)$/, ".query.$1"],
  [/\.to_k\.(weight|bias)$/, ".key.$1"],
  [/\.to_v\.(weight|bias)$/, ".value.$1"],
  [/\.to_out\.0\.(weight|bias)$/, ".proj_attn.$1"],
  [/\.downsamplers\.0\.conv\.(weight|bias)$/, ".downsamplers.0.Conv2d_0.$1"],
  [/\.upsamplers\.0\.conv\.(weight|bias)$/, ".upsamplers.0.Conv2d_0.$1"],
];

/** The names under which a checkpoint may hold a tensor: the present one, then what older releases called it. */
export function candidates(name: string): readonly string[] {
  const earlier = renames.filter(([pattern]) => pattern.test(name)).map(([pattern, old]) => name.replace(pattern, old));
  return [name, ...earlier];
}

/** Whether two shapes are the same, apart from trailing ones: `[C, C, 1, 1]` and `[C, C]` hold the same bytes. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const shorter = a.length < b.length ? a : b;
  const longer = a.length < b.length ? b : a;
  return longer.every((dim, i) => dim === (i < shorter.length ? shorter[i] : 1));
}
