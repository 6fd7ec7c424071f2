/** Pictures and random numbers in Chromium, against the fixtures that Node is held to as well. */
import { readFileSync } from "node:fs";
import { expect, type Page, test } from "@playwright/test";
import { fixtureTensors, fixtureText } from "../support/fixtures.ts";

interface Picture {
  width: number;
  height: number;
  channels: number;
  data: number[];
  metadata: Record<string, string>;
}

test.describe.configure({ mode: "serial" });
let page: Page;
test.beforeAll(async ({ browser }) => {
  page = await browser.newPage();
  await page.goto("/tests/browser/harness/core.html");
  await page.waitForFunction("window.core");
});
test.afterAll(() => page.close());

const stored = fixtureTensors("core/image.safetensors");
const bytes = (name: string): number[] => Array.from(stored[`${name}/file`]!.data as Uint8Array);
const names = (prefix: string): string[] =>
  Object.keys(stored).flatMap((key) => (key.startsWith(prefix) && key.endsWith("/file") ? [key.slice(0, -5)] : []));
function expected(name: string): Picture {
  const { data, dims } = stored[name]!;
  const [height, width, channels] = dims as [number, number, number];
  return { width, height, channels, data: Array.from(data as Uint8Array), metadata: {} };
}

/** Reads files in the page. */
function read(files: number[][]): Promise<Picture[]> {
  return page.evaluate(async (all) => {
    const pictures = await Promise.all(all.map((file) => window.core.RawImage.read(new Uint8Array(file))));
    return pictures.map(({ width, height, channels, data, metadata }) => ({
      ...{ width, height, channels, metadata },
      data: [...data],
    }));
  }, files);
}

test("the generator's numbers do not depend on the engine's sine and logarithm", async () => {
  interface Entry {
    sha256: string;
  }
  const { calls, sequences } = JSON.parse(fixtureText("core/generator.json")) as {
    calls: [name: string, ...args: unknown[]][];
    sequences: Record<string, { results: Entry[] }>;
  };
  for (const [seed, { results }] of Object.entries(sequences)) {
    const drawn = await page.evaluate(
      async ([all, start]) => {
        const generator = new window.core.Generator().manual_seed(start);
        const hashes: string[] = [];
        for (const [name, ...args] of all) {
          const tensor = (generator[name as "randn"] as (...args: unknown[]) => { data: Float32Array }).apply(
            generator,
            args,
          );
          const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", tensor.data as BufferSource));
          hashes.push(Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join(""));
        }
        return hashes;
      },
      [calls, Number(seed)] as const,
    );
    expect(drawn, `seed ${seed}`).toEqual(results.map(({ sha256 }) => sha256));
  }
});

test("PNG files of every kind, with the colours of transparent pixels and their texts", async () => {
  const files = names("png/");
  const pictures = await read(files.map(bytes));
  for (const [i, name] of files.entries()) expect(pictures[i], name).toEqual(expected(`${name}/pixels`));
  const [texts] = await read([bytes("text")]);
  expect(texts!.metadata).toMatchObject({ parameters: "a fox, café\nSteps: 20, Seed: 1", Title: "狐 🦊" });
});

test("photos", async () => {
  const files = names("photo/");
  const pictures = await read(files.map(bytes));
  for (const [i, name] of files.entries()) {
    const { data, ...facts } = pictures[i]!;
    const { data: wanted, ...wantedFacts } = expected(`${name}/pixels`);
    expect(facts, name).toEqual(wantedFacts);
    // Lossy formats are decoded a little differently everywhere; a canvas keeps colours times alpha, which costs the
    // colours of pixels that are nearly transparent: 255 / alpha / 2 at most.
    let worst = 0;
    for (const [j, value] of wanted.entries()) {
      const alpha = facts.channels === 4 ? wanted[j | 3]! : 255;
      const allowed = name.includes("lossless") ? 0 : name.includes("alpha") ? 1 + 128 / alpha : 3;
      worst = Math.max(worst, Math.abs(value - data[j]!) - allowed);
    }
    expect(worst, name).toBeLessThanOrEqual(0);
  }
});

test("resize is Pillow's to the bit", async () => {
  const { resized } = JSON.parse(fixtureText("core/image.json")) as {
    resized: [string, number, string, number, number, string][];
  };
  const cases = resized.filter(([name]) => name === "noise");
  const sources = Object.fromEntries([1, 3, 4].map((channels) => [channels, expected(`noise${channels}`)]));
  const digests = await page.evaluate(
    ([all, from]) =>
      Promise.all(
        all.map(async ([, channels, resample, toWidth, toHeight]) => {
          const { data, width, height } = from[channels]!;
          const image = new window.core.RawImage(new Uint8Array(data), width, height, channels as 3);
          const resized = image.resize(toWidth, toHeight, { resample: resample as "bicubic" });
          const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", resized.data as BufferSource));
          return Array.from(hash.subarray(0, 12), (byte) => byte.toString(16).padStart(2, "0")).join("");
        }),
      ),
    [cases, sources] as const,
  );
  expect(digests).toEqual(cases.map(([, , , , , digest]) => digest));
});

test("read takes what a page shows", async () => {
  const source = expected("noise3");
  const results = await page.evaluate(async ({ data, width, height }) => {
    const { RawImage } = window.core;
    const image = new RawImage(new Uint8Array(data), width, height, 3);
    const blob = await image.toBlob();
    const url = URL.createObjectURL(blob);
    const element = Object.assign(new Image(), { src: url });
    const offscreen = new OffscreenCanvas(width, height);
    offscreen.getContext("2d")!.drawImage(await createImageBitmap(blob), 0, 0);
    const canvas = image.toCanvas() as HTMLCanvasElement;
    const dataUrl = canvas.toDataURL();
    const sources = {
      blob,
      file: new File([blob], "x.png"),
      bytes: new Uint8Array(await blob.arrayBuffer()),
      objectUrl: url,
      urlObject: new URL(url),
      dataUrl,
      element,
      canvas,
      offscreen,
      bitmap: await createImageBitmap(blob),
      imageData: canvas.getContext("2d")!.getImageData(0, 0, width, height),
      tensor: image.toTensor(),
      image,
    };
    const read: Record<string, { size: number[]; data: number[] }> = {};
    for (const [name, from] of Object.entries(sources)) {
      let result = await RawImage.read(from);
      // Chromium writes the canvas as a PNG with alpha, and that is what is read.
      if (name === "dataUrl" && result.channels === 4) result = result.convert(3);
      read[name] = { size: [result.width, result.height, result.channels], data: [...result.data] };
    }
    // The caller's bitmap is still the caller's.
    const bitmapKept = sources.bitmap.width;
    URL.revokeObjectURL(url);
    return { read, bitmapKept, isElement: canvas instanceof HTMLCanvasElement };
  }, source);
  for (const [name, { size, data }] of Object.entries(results.read)) {
    expect(size, name).toEqual([source.width, source.height, 3]);
    expect(data, name).toEqual(source.data);
  }
  expect(results).toMatchObject({ bitmapKept: source.width, isElement: true });
});

test("a relative address, and what cannot be read", async () => {
  const results = await page.evaluate(async () => {
    const { RawImage } = window.core;
    const say = (error: Error): string => `${error.name}: ${error.message}`;
    const broken = Object.assign(new Image(), { src: "data:image/png;base64,AAAA" });
    return {
      missing: await RawImage.read("/tests/fixtures/none.png").then(String, say),
      text: await RawImage.read(new Blob(["no picture"])).then(String, say),
      broken: await RawImage.read(broken).then(String, say),
      number: await RawImage.read(3 as never).then(String, say),
      object: await RawImage.read({} as never).then(String, say),
      aborted: await RawImage.read("/x.png", { signal: AbortSignal.abort() }).then(String, say),
    };
  });
  expect(results.missing).toMatch(/^(ModelNotFoundError|IntegrityError): .*none\.png/);
  expect(results.text).toMatch(/^IntegrityError: the blob is not a picture/);
  expect(results.broken).toMatch(/^IntegrityError: /);
  expect(results.number).toMatch(/^TypeError: .*got number/);
  expect(results.object).toMatch(/^TypeError: .*got Object/);
  expect(results.aborted).toMatch(/^AbortError/);
});

test("writing: PNG with its texts, JPEG, WebP", async () => {
  const results = await page.evaluate(async ({ data, width, height }) => {
    const image = new window.core.RawImage(new Uint8Array(data), width, height, 4, { prompt: "狐" });
    return Promise.all(
      (["image/png", "image/jpeg", "image/webp"] as const).map(async (type) => {
        const blob = await image.toBlob(type);
        const again = await window.core.RawImage.read(blob);
        const same = again.data.length === image.data.length && again.data.every((x, i) => x === image.data[i]);
        return [blob.type, again.channels, same, again.metadata["prompt"]];
      }),
    );
  }, expected("noise4"));
  expect(results).toEqual([
    ["image/png", 4, true, "狐"],
    ["image/jpeg", 3, false, undefined],
    ["image/webp", 4, false, undefined],
  ]);
});

test("save is a download of its own format, and lets go of its address", async () => {
  const source = expected("noise3");
  for (const [name, start] of [
    ["fox.png", "89504e47"],
    ["fox.jpg", "ffd8ff"],
    ["fox.webp", "52494646"],
  ] as const) {
    const [download, revoked] = await Promise.all([
      page.waitForEvent("download"),
      page.evaluate(
        async ([picture, fileName]) => {
          const revoke = URL.revokeObjectURL;
          const gone = new Promise<string>((resolve) => {
            URL.revokeObjectURL = (url) => resolve(url);
          });
          const { data, width, height } = picture;
          await new window.core.RawImage(new Uint8Array(data), width, height, 3).save(fileName);
          const url = await gone;
          URL.revokeObjectURL = revoke;
          revoke.call(URL, url);
          return url;
        },
        [source, name] as const,
      ),
    ]);
    expect(download.suggestedFilename()).toBe(name);
    expect(revoked).toMatch(/^blob:/);
    const file = readFileSync(await download.path());
    expect(file.toString("hex", 0, start.length / 2)).toBe(start);
  }
});

test("in a worker: read and canvas work, save says what to do", async () => {
  const result = await page.evaluate((file) => {
    const worker = new Worker("/tests/browser/harness/core_worker.ts", { type: "module" });
    return new Promise<{ read: number[]; shown: number[]; refused: string }>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data as never);
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(new Uint8Array(file));
    }).finally(() => worker.terminate());
  }, bytes("png/split"));
  const { data } = expected("png/split/pixels");
  expect([result.read, result.shown]).toEqual([data, data]);
  expect(result.refused).toMatch(/^DeviceError: .*toBlob/);
});
