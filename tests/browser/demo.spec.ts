import { readFileSync } from "node:fs";
import { expect, type Page, test } from "@playwright/test";
import { fixtureTensors } from "../support/fixtures.ts";

/** What a page asked for and complained about. */
interface Log {
  readonly requests: string[];
  readonly errors: string[];
}

async function open(page: Page, address: string): Promise<Log> {
  const log: Log = { requests: [], errors: [] };
  // Requests of the page and of its worker, in the order they are made.
  page.context().on("request", (request) => {
    if (/^https?:/.test(request.url())) log.requests.push(request.url());
  });
  page.on("console", (message) => {
    if (message.type() === "error") log.errors.push(message.text());
  });
  page.on("pageerror", (error) => log.errors.push(error.message));
  await page.goto(address);
  return log;
}

const generate = (page: Page): Promise<void> => page.getByRole("button", { name: "Generate" }).click();
const download = (page: Page) => page.getByRole("button", { name: "Download" });

async function pictureDone(page: Page, timeout = 60_000): Promise<void> {
  await expect(download(page)).toBeEnabled({ timeout });
}

/** The file that the Download button gives. */
async function saved(page: Page): Promise<{ name: string; bytes: Buffer }> {
  const [file] = await Promise.all([page.waitForEvent("download"), download(page).click()]);
  return { name: file.suggestedFilename(), bytes: readFileSync(await file.path()) };
}

/** Keyword and text of a PNG's text chunks. */
function textChunks(png: Buffer): Record<string, string> {
  const texts: Record<string, string> = {};
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const type = png.toString("latin1", at + 4, at + 8);
    const data = png.subarray(at + 8, at + 8 + length);
    if (type === "tEXt" || type === "iTXt") {
      const end = data.indexOf(0);
      // iTXt: two flags, then language and translated keyword, each ending in a zero byte.
      const text = type === "tEXt" ? data.subarray(end + 1) : data.subarray(data.lastIndexOf(0) + 1);
      texts[data.toString("latin1", 0, end)] = text.toString(type === "tEXt" ? "latin1" : "utf8");
    }
    at += length + 12;
  }
  return texts;
}

/** RGB values of a PNG, decoded by the browser. */
function pixels(page: Page, png: Buffer): Promise<{ width: number; height: number; rgb: number[] }> {
  return page.evaluate(async (base64) => {
    const blob = new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "image/png" });
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d")!;
    context.drawImage(bitmap, 0, 0);
    const rgb = Array.from(context.getImageData(0, 0, width, height).data).filter((_, i) => i % 4 !== 3);
    return { width, height, rgb };
  }, png.toString("base64"));
}

function mean(rgb: number[], width: number, [x0, y0, x1, y1]: [number, number, number, number]): number[] {
  const sum = [0, 0, 0];
  for (let y = y0; y < y1; y++)
    for (let x = x0; x < x1; x++) for (const c of [0, 1, 2]) sum[c]! += rgb[3 * (y * width + x) + c]!;
  return sum.map((value) => value / ((x1 - x0) * (y1 - y0)));
}

/** The bound for whole pipelines: at most 0.5 % of a picture's values off by more than 2 of 255. */
function expectSamePicture(actual: number[], expected: ArrayLike<number | bigint>): void {
  expect(actual.length).toBe(expected.length);
  const off = actual.filter((value, i) => Math.abs(value - Number(expected[i])) > 2).length;
  expect(off / actual.length).toBeLessThanOrEqual(0.005);
}

test("a prompt becomes the picture that Python makes, seen while it forms, in a page that never freezes", async ({
  page,
}) => {
  const log = await open(page, "/?device=wasm");
  // A request for an engine or a model would be under way by now.
  await page.waitForTimeout(1000);
  expect(log.requests.filter((url) => /\.wasm|\.safetensors|ort/.test(url))).toEqual([]);

  await page.getByLabel("Prompt", { exact: true }).fill("a fox on a purple background");
  await page.getByLabel("Seed", { exact: true }).fill("0");
  await page.evaluate(() => {
    const seen = { status: [] as string[], labels: [] as string[], frames: 0, longest: 0 };
    const watch = (id: string, take: (element: Element) => void): void => {
      const element = document.getElementById(id)!;
      new MutationObserver(() => take(element)).observe(element, {
        childList: true,
        characterData: true,
        subtree: true,
        attributes: true,
      });
    };
    watch("status", (element) => seen.status.push(element.textContent ?? ""));
    watch("canvas", (element) => seen.labels.push(element.getAttribute("aria-label") ?? ""));
    let last = performance.now();
    const frame = (now: number): void => {
      seen.frames += 1;
      seen.longest = Math.max(seen.longest, now - last);
      last = now;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    (globalThis as unknown as { seen: typeof seen }).seen = seen;
  });
  const began = Date.now();
  await generate(page);
  await pictureDone(page);
  const seconds = (Date.now() - began) / 1000;
  const seen = await page.evaluate(
    () =>
      (globalThis as unknown as { seen: { status: string[]; labels: string[]; frames: number; longest: number } }).seen,
  );

  // Every step was reported, in order; previews came while steps were still to come.
  const steps = seen.status.filter((text) => text.startsWith("Step "));
  expect(steps).toEqual(Array.from({ length: 20 }, (_, i) => `Step ${i + 1} of 20`));
  expect(seen.labels.filter((label) => label.startsWith("Forming")).length).toBeGreaterThanOrEqual(3);
  expect(seen.labels.at(-1)).toBe("a fox on a purple background");
  // A page that waits for the model would draw a frame or two in all. Two busy cores draw fewer than 60 a second.
  expect(seen.frames / seconds).toBeGreaterThan(5);
  expect(seen.longest).toBeLessThan(1000);

  const { name, bytes } = await saved(page);
  expect(name).toBe("a-fox-on-a-purple-background-seed-0.png");
  expect(textChunks(bytes)["parameters"]).toContain("a fox on a purple background");
  expect(textChunks(bytes)["parameters"]).toContain("Seed: 0");
  const { width, height, rgb } = await pixels(page, bytes);
  expect([width, height]).toEqual([64, 64]);
  // tests/fixtures/quicktour/make_quicktour.py
  expectSamePicture(rgb, fixtureTensors("quicktour/quicktour.safetensors")["picture"]!.data);

  // How it formed can be looked at afterwards.
  const scrub = page.getByLabel("How the picture formed");
  expect(Number(await scrub.getAttribute("max"))).toBeGreaterThanOrEqual(3);
  await scrub.press("Home");
  await expect(scrub).toHaveAttribute("aria-valuetext", "Step 1 of 20");

  expect(log.errors).toEqual([]);
  const origin = new URL(page.url()).origin;
  expect(log.requests.filter((url) => new URL(url).origin !== origin)).toEqual([]);
  expect(log.requests.filter((url, i) => log.requests.indexOf(url) !== i)).toEqual([]);
});

test("Cancel ends a run within a step; the next run works, and earlier pictures stay", async ({ page }) => {
  const log = await open(page, "/?device=wasm");
  await page.getByLabel("Prompt", { exact: true }).fill("a red apple");
  await page.getByLabel("Seed", { exact: true }).fill("0");
  // Enter generates.
  await page.getByLabel("Prompt", { exact: true }).press("Enter");
  await pictureDone(page);
  const { width, rgb } = await pixels(page, (await saved(page)).bytes);
  // The model card's picture of it: red in the middle, on white.
  const [red, green, blue] = mean(rgb, width, [20, 28, 44, 52]) as [number, number, number];
  expect(red).toBeGreaterThan(190);
  expect(Math.max(green, blue)).toBeLessThan(110);
  for (const x of [0, 60]) expect(Math.min(...mean(rgb, width, [x, 60, x + 4, 64]))).toBeGreaterThan(225);

  await page.getByLabel("Steps", { exact: true }).fill("50");
  await page.getByRole("button", { name: "a cactus on a pink background" }).click();
  await generate(page);
  await expect(page.locator("#status")).toHaveText(/^Step [2-9] of 50/, { timeout: 30_000 });
  const stepsDone = async (): Promise<number> => Number(await page.locator("#ticks").getAttribute("aria-valuenow"));
  await page.evaluate(() => {
    const ticks = document.getElementById("ticks")!;
    document.getElementById("cancel")!.addEventListener("click", () => {
      ticks.dataset["cancelledAt"] = ticks.getAttribute("aria-valuenow")!;
    });
  });
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(page.locator("#status")).toHaveText("Cancelled.");
  // One step may have been told but not shown when Cancel was pressed, another one was under way.
  const cancelledAt = Number(await page.locator("#ticks").getAttribute("data-cancelled-at"));
  expect(cancelledAt).toBeGreaterThanOrEqual(2);
  expect((await stepsDone()) - cancelledAt).toBeLessThanOrEqual(2);
  await expect(page.getByLabel("Prompt", { exact: true })).toHaveValue("a cactus on a pink background");
  await expect(page.getByRole("img", { name: "a red apple" })).toBeVisible();

  await page.getByLabel("Steps", { exact: true }).fill("4");
  await page.getByLabel("Scheduler", { exact: true }).selectOption("EulerDiscreteScheduler");
  await generate(page);
  await pictureDone(page);
  await expect(page.getByRole("img", { name: "a cactus on a pink background" })).toBeVisible();
  await expect(page.locator("#history button")).toHaveCount(2);
  await page.locator("#history button").last().click();
  await expect(page.getByLabel("Prompt", { exact: true })).toHaveValue("a red apple");
  await expect(page.getByLabel("Steps", { exact: true })).toHaveValue("20");
  await expect(page.getByLabel("Scheduler", { exact: true })).toHaveValue("DPMSolverMultistepScheduler");
  expect(log.errors).toEqual([]);
  expect(log.requests.filter((url, i) => log.requests.indexOf(url) !== i)).toEqual([]);
});

test("a model that is not there is explained, and nothing typed is lost", async ({ page }) => {
  await open(page, "/?device=wasm&model=/models/nowhere");
  await page.getByLabel("Prompt", { exact: true }).fill("a cat");
  await generate(page);
  await expect(page.getByRole("alert")).toContainText("The model could not be loaded");
  await expect(page.getByRole("alert")).toContainText("model_index.json");
  await expect(page.getByLabel("Prompt", { exact: true })).toHaveValue("a cat");
  await expect(page.getByRole("button", { name: "Generate" })).toBeEnabled();
  await expect(page.getByLabel("Seed", { exact: true })).toHaveValue("0");
  await page.getByRole("button", { name: "Try again" }).click();
  await expect(page.getByRole("alert")).toContainText("The model could not be loaded");
});

test("says why it does not use WebGPU, and offers the schedulers that the package has", async ({ page }) => {
  await open(page, "/");
  await expect(page.getByLabel("Scheduler", { exact: true }).locator("option")).not.toHaveCount(1);
  const names = await page.getByLabel("Scheduler", { exact: true }).locator("option").allTextContents();
  expect(names).toEqual(expect.arrayContaining(["DDIM", "DDPM", "PNDM", "EulerDiscrete"]));
  await page.getByLabel("Steps", { exact: true }).fill("1");
  await generate(page);
  await pictureDone(page);
  // The browser of the tests has a software adapter, which `auto` does not take.
  await expect(page.locator("#device-note")).toContainText(/software/);
  await expect(page.locator("#device-short")).toHaveText("WASM");
});

test("draws on WebGPU the picture that Python makes", async ({ page }) => {
  // A step on a software adapter takes 8 s and more.
  const log = await open(page, "/?device=webgpu");
  await page.getByLabel("Prompt", { exact: true }).fill("a fox on a purple background");
  await page.getByLabel("Seed", { exact: true }).fill("0");
  // DIFFUSERS_WEB_STEPS=20 runs the recommended settings, for minutes on a software adapter.
  const steps = process.env["DIFFUSERS_WEB_STEPS"] === "20" ? 20 : 2;
  test.setTimeout(steps * 150_000);
  await page.getByLabel("Steps", { exact: true }).fill(String(steps));
  await generate(page);
  await expect(page.locator("#device-short")).toHaveText("WebGPU", { timeout: 120_000 });
  await pictureDone(page, steps * 140_000);
  const { rgb } = await pixels(page, (await saved(page)).bytes);
  const pictures = fixtureTensors("quicktour/quicktour.safetensors");
  expectSamePicture(rgb, pictures[steps === 20 ? "picture" : "picture_in_2_steps"]!.data);
  expect(log.errors).toEqual([]);
});

test("every control has a name, and can be reached by keyboard", async ({ page }) => {
  await open(page, "/");
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("input, select, textarea, button, [role=img], progress")]
      .filter((element) => {
        const labels = (element as HTMLInputElement).labels?.length ?? 0;
        return labels === 0 && !element.ariaLabel && (element.textContent ?? "").trim() === "";
      })
      .map((element) => element.outerHTML),
  );
  expect(nameless).toEqual([]);
  expect(await page.getByRole("heading", { level: 1 }).count()).toBe(1);
  expect(await page.getByRole("main").count()).toBe(1);
  expect(await page.locator("html").getAttribute("lang")).toBe("en");
  const reached: string[] = [];
  for (let i = 0; i < 25; i++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement?.id ?? ""));
  }
  for (const id of ["prompt", "surprise", "generate", "seed", "dice", "keep-seed", "steps", "scheduler", "device"]) {
    expect(reached).toContain(id);
  }
});

for (const width of [360, 1280]) {
  test(`nothing is cut off at a width of ${width}`, async ({ page }) => {
    await page.setViewportSize({ width, height: 740 });
    await open(page, "/?device=wasm");
    const wider = (): Promise<number> => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(await wider()).toBeLessThanOrEqual(0);
    await page.getByLabel("Prompt", { exact: true }).fill("aVeryLongWordWithoutAnySpaces".repeat(8));
    if (width < 500) await page.locator("summary").click();
    await page.getByLabel("Steps", { exact: true }).fill("2");
    expect(await wider()).toBeLessThanOrEqual(0);
    await generate(page);
    await pictureDone(page);
    expect(await wider()).toBeLessThanOrEqual(0);
  });
}
