import { gzipSync } from "node:zlib";
import { schedulerRegistry } from "@diffusers-web/core";
import { expect, type Locator, type Page, type Response, test } from "@playwright/test";

const stableDiffusion = {
  _class_name: "PNDMScheduler",
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  clip_sample: false,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
};

interface Laid {
  readonly timesteps: number[];
  readonly sigmas: number[] | undefined;
}

/** What the package lays out, computed here: of the class's own defaults, or of Stable Diffusion's config. */
function layOut(name: string, steps: number, config?: object): Laid {
  const cls = schedulerRegistry[name]!;
  const scheduler = (config === undefined ? new cls() : cls.from_config(stableDiffusion, config)) as InstanceType<
    typeof cls
  > & {
    sigmas?: ArrayLike<number> | null;
    schedule?: ArrayLike<number> | null;
    alphas_cumprod?: ArrayLike<number>;
    set_sigmas?(steps: number): void;
  };
  scheduler.set_timesteps(steps, name === "SCMScheduler" ? { intermediate_timesteps: null } : {});
  scheduler.set_sigmas?.(steps);
  const timesteps = [...scheduler.timesteps];
  const { sigmas, schedule, alphas_cumprod } = scheduler;
  if (sigmas) return { timesteps, sigmas: Array.from(sigmas).slice(0, timesteps.length + 1) };
  if (schedule) return { timesteps, sigmas: timesteps.map((t) => schedule[t]!) };
  if (!alphas_cumprod) return { timesteps, sigmas: undefined };
  return { timesteps, sigmas: timesteps.map((t) => Math.sqrt(1 / alphas_cumprod[t]! - 1)) };
}

const short = (name: string): string => name.replace("Scheduler", "");
const sigmaChart = (page: Page): Locator => page.locator("#sigma-chart");
const timestepChart = (page: Page): Locator => page.locator("#timestep-chart");
const scrub = (page: Page): Locator => page.getByLabel("At step", { exact: true });

/** The values that a curve shows, read off its path against what is written at the axis; and how much a pixel is. */
async function drawn(chart: Locator, label: string, log = false): Promise<{ values: number[]; pixel: number }> {
  await expect(chart.locator(".grid")).toBeAttached();
  const { ticks, path } = await chart.evaluate((svg, wanted) => {
    const ticks = [...svg.querySelectorAll(".grid text.y")].map((text) => ({
      value: Number(text.textContent),
      // The text stands that much below its line.
      y: Number(text.getAttribute("y")) - 4,
    }));
    const curve = [...svg.querySelectorAll<SVGElement>(".curve")].find((one) => one.dataset["label"] === wanted);
    return { ticks, path: curve?.querySelector(".line")?.getAttribute("d") ?? "" };
  }, label);
  expect(ticks.length).toBeGreaterThan(1);
  const [first, last] = [ticks[0]!, ticks.at(-1)!];
  const scale = log ? Math.log10 : (value: number): number => value;
  const perPixel = (scale(last.value) - scale(first.value)) / (last.y - first.y);
  const values = [...path.matchAll(/[ML](\S+) ([\d.-]+)/g)].map((match) => {
    const value = scale(first.value) + (Number(match[2]) - first.y) * perPixel;
    return log ? 10 ** value : value;
  });
  return { values, pixel: Math.abs(perPixel) };
}

/** To a third of a pixel: the axis is written to a tenth of one at both of its ends. */
async function expectDrawn(chart: Locator, label: string, expected: number[]): Promise<void> {
  const { values, pixel } = await drawn(chart, label);
  expect(values.length, label).toBe(expected.length);
  const off = values.map((value, i) => Math.abs(value - expected[i]!) / pixel);
  expect(Math.max(...off), label).toBeLessThan(0.34);
}

/** What stands beside a curve's name. */
function written(page: Page, chart: "sigma" | "timestep", label: string): Locator {
  const item = page.locator(`#${chart}-legend li`).filter({ has: page.getByText(label, { exact: true }) });
  return item.locator("output");
}

const inFourDigits = (value: number): string =>
  Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));

test("every scheduler of the package is drawn as set_timesteps lays it out", async ({ page }) => {
  const names = Object.keys(schedulerRegistry);
  const offered = async (): Promise<string[]> =>
    page.getByLabel("Scheduler 1", { exact: true }).locator("option").allTextContents();
  await page.goto("/schedulers.html");
  expect(await offered()).toEqual(names.map(short));
  for (const name of names) {
    // One at a time, so that no axis is made for larger values.
    await page.goto(`/schedulers.html#base=own&steps=9&curve=${short(name)}`);
    await expect(scrub(page)).toHaveAttribute("aria-valuetext", new RegExp(`${short(name)}: `));
    const { timesteps, sigmas } = layOut(name, 9);
    await expectDrawn(timestepChart(page), short(name), timesteps);
    await expectDrawn(sigmaChart(page), short(name), sigmas ?? []);
    if (sigmas === undefined) await expect(written(page, "sigma", short(name))).toHaveText("has no sigmas");
    await scrub(page).fill("3");
    await expect(written(page, "timestep", short(name))).toHaveText(inFourDigits(timesteps[3]!));
    if (sigmas !== undefined) await expect(written(page, "sigma", short(name))).toHaveText(inFourDigits(sigmas[3]!));
    await expect(page.getByRole("heading", { name, exact: true })).toBeVisible();
  }
});

test("it begins with curves from Stable Diffusion's config, and shows their values where one points", async ({
  page,
}) => {
  await page.goto("/schedulers.html");
  const karras = layOut("DPMSolverMultistepScheduler", 20, { use_karras_sigmas: true });
  const euler = layOut("EulerDiscreteScheduler", 20, {});
  const ddim = layOut("DDIMScheduler", 20, {});
  for (const [label, { timesteps, sigmas }] of [
    ["EulerDiscrete", euler],
    ["DPMSolverMultistep, Karras", karras],
    ["DDIM", ddim],
  ] as const) {
    await expectDrawn(sigmaChart(page), label, sigmas!);
    await expectDrawn(timestepChart(page), label, timesteps);
  }

  const box = (await sigmaChart(page).boundingBox())!;
  await page.mouse.move(box.x + box.width * 0.5, box.y + 40);
  const at = Number(await scrub(page).inputValue());
  expect(at).toBeGreaterThan(7);
  expect(at).toBeLessThan(13);
  await expect(written(page, "sigma", "EulerDiscrete")).toHaveText(inFourDigits(euler.sigmas![at]!));
  await expect(written(page, "timestep", "DDIM")).toHaveText(inFourDigits(ddim.timesteps[at]!));

  // By keyboard, to the end: DDIM keeps no sigma there.
  await scrub(page).press("End");
  await expect(written(page, "sigma", "EulerDiscrete")).toHaveText("0");
  await expect(written(page, "sigma", "DDIM")).toHaveText("–");
  await scrub(page).press("ArrowLeft");
  const last = `DPMSolverMultistep, Karras: sigma ${inFourDigits(karras.sigmas![19]!)}, timestep ${karras.timesteps[19]}`;
  await expect(scrub(page)).toHaveAttribute("aria-valuetext", new RegExp(`^19\\. .*${last}`));

  await page.getByLabel("Log scale").check();
  const { values } = await drawn(sigmaChart(page), "EulerDiscrete", true);
  // Zero has no place on it.
  expect(values.length).toBe(20);
  for (const [i, value] of values.entries()) expect(value / euler.sigmas![i]!).toBeCloseTo(1, 1);
});

test("choices are drawn, explained and kept in the address", async ({ page }) => {
  await page.goto("/schedulers.html#curve=EulerDiscrete");
  await page.getByRole("button", { name: "Add a scheduler" }).click();
  await expect(page.getByLabel("Scheduler 2", { exact: true })).toBeFocused();
  await page.getByLabel("Scheduler 2", { exact: true }).selectOption("EulerDiscreteScheduler");
  await page.getByLabel("Sigmas of scheduler 2").selectOption("karras");
  await page.getByLabel("Timestep spacing of scheduler 2").selectOption("trailing");
  await page.getByLabel("Steps, as a number").fill("12");
  const karras = layOut("EulerDiscreteScheduler", 12, { use_karras_sigmas: true, timestep_spacing: "trailing" });
  await expectDrawn(sigmaChart(page), "EulerDiscrete, Karras, trailing", karras.sigmas!);
  await expectDrawn(sigmaChart(page), "EulerDiscrete", layOut("EulerDiscreteScheduler", 12, {}).sigmas!);
  expect(new URL(page.url()).hash).toBe("#steps=12&curve=EulerDiscrete&curve=EulerDiscrete.karras.trailing");

  // One card for the class, with the code of both.
  const card = page.locator("#cards li");
  await expect(card).toHaveCount(1);
  await expect(card.locator("pre")).toHaveText([
    "pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config);",
    'pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, { use_karras_sigmas: true, timestep_spacing: "trailing" });',
  ]);
  // From the table in packages/core/src/schedulers/README.md.
  await expect(card.getByRole("link", { name: "EDM" })).toHaveAttribute("href", /\/papers\/2206\.00364$/);
  await expect(card.locator("dt")).toHaveText(["Paper", "Order", "Calls per step", "Noise", "Good for", "Steps"]);
  await expect(card.locator("dd").nth(3)).toHaveText("deterministic; stochastic with s_churn");

  // Spacings that a class does not take are not offered, and not kept for it.
  await page.getByLabel("Scheduler 2", { exact: true }).selectOption("DDIMScheduler");
  await expect(page.getByLabel("Sigmas of scheduler 2")).toHaveCount(0);
  await page.getByLabel("Config").selectOption("own");
  await expectDrawn(timestepChart(page), "EulerDiscrete", layOut("EulerDiscreteScheduler", 12).timesteps);
  await expect(card.locator("pre").last()).toHaveText(
    'const scheduler = new DDIMScheduler({ timestep_spacing: "trailing" });scheduler.set_timesteps(12);',
  );
  const url = page.url();
  await page.goto("about:blank");
  await page.goto(url);
  await expect(page.getByLabel("Steps, as a number")).toHaveValue("12");
  await expect(page.getByLabel("Config")).toHaveValue("own");
  await expect(page.getByLabel("Timestep spacing of scheduler 2")).toHaveValue("trailing");
  await page.getByLabel("Compare by").selectOption("share");
  await scrub(page).fill("50");
  const { timesteps } = layOut("EulerDiscreteScheduler", 12);
  await expect(written(page, "timestep", "EulerDiscrete")).toHaveText(inFourDigits(timesteps[6]!));

  await page.getByRole("button", { name: "Remove scheduler 1" }).click();
  await expect(page.getByLabel("Scheduler 1", { exact: true })).toHaveValue("DDIMScheduler");
  await page.evaluate(() => {
    location.hash = "#steps=7&curve=PNDM";
  });
  await expect(page.getByLabel("Scheduler 1", { exact: true })).toHaveValue("PNDMScheduler");
  await expect(page.locator("#choices li")).toHaveCount(1);
  await expect(page.getByLabel("Steps, as a number")).toHaveValue("7");
});

test("what a class refuses is said beside its name, and the other curves stay", async ({ page }) => {
  const message = (): string => {
    try {
      layOut("DDIMScheduler", 1001, {});
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error("DDIM takes more steps than it was trained for.");
  };
  await page.goto("/schedulers.html#steps=1001&curve=DDIM&curve=EulerDiscrete&curve=Nope");
  await expect(page.locator("#choices li").nth(0).getByRole("status")).toHaveText(message());
  await expect(page.locator("#choices li").nth(1).getByRole("status")).toBeEmpty();
  await expect(page.locator("#choices li").nth(2).getByRole("status")).toHaveText("The package has no NopeScheduler.");
  await expect(written(page, "sigma", "DDIM")).toHaveText("refused");
  await expectDrawn(sigmaChart(page), "EulerDiscrete", layOut("EulerDiscreteScheduler", 1001, {}).sigmas!);
  expect((await drawn(sigmaChart(page), "DDIM")).values).toEqual([]);

  await page.getByLabel("Steps, as a number").fill("10");
  await expect(page.locator("#choices li").nth(0).getByRole("status")).toBeEmpty();
  await expectDrawn(timestepChart(page), "DDIM", layOut("DDIMScheduler", 10, {}).timesteps);
  // No number of steps: what was drawn stays, and comes back into the field.
  await page.getByLabel("Steps, as a number").fill("");
  await page.getByLabel("Steps, as a number").blur();
  await expect(page.getByLabel("Steps, as a number")).toHaveValue("10");
});

test("the page loads the schedulers and nothing else, and nothing in it moves", async ({ page }) => {
  const errors: string[] = [];
  const scripts: Promise<Buffer>[] = [];
  const requests: string[] = [];
  page.on("console", (entry) => errors.push(entry.text()));
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("request", (request) => requests.push(request.url()));
  const keepScript = (response: Response): void => {
    if (response.ok() && response.url().endsWith(".js")) scripts.push(response.body());
  };
  page.on("response", keepScript);
  await page.addInitScript(() => {
    const moved: number[] = [];
    Object.assign(globalThis, { moved });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) moved.push((entry as PerformanceEntry & { value: number }).value);
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto("/schedulers.html");
  await scrub(page).fill("5");
  await page.waitForTimeout(500);
  expect(await page.evaluate(() => (globalThis as unknown as { moved: number[] }).moved)).toEqual([]);
  const { origin } = new URL(page.url());
  expect(requests.filter((url) => /^https?:/.test(url) && new URL(url).origin !== origin)).toEqual([]);
  expect(requests.filter((url) => /ort|onnx|wasm|worker|models/.test(url))).toEqual([]);
  // What the pages below load is nobody's to wait for: it would fail where the page closes first.
  page.off("response", keepScript);
  const sizes = (await Promise.all(scripts)).map((body) => gzipSync(body).byteLength);
  expect(sizes.length).toBeGreaterThan(0);
  // All schedulers take about 45 kB.
  expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThan(80_000);
  expect(errors).toEqual([]);

  await page.getByRole("link", { name: "Draw a picture" }).click();
  await page.getByRole("link", { name: "schedulers, side by side" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Schedulers, side by side");
});

test("every control has a name and can be reached by keyboard, and no width cuts anything off", async ({ page }) => {
  for (const width of [320, 360, 1280]) {
    await page.setViewportSize({ width, height: 740 });
    await page.goto("/schedulers.html#steps=1001&curve=DPMSolverMultistep.exponential.trailing&curve=DDIM&curve=PNDM");
    await expect(page.getByText(/cannot be larger/)).toBeVisible();
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0);
  }
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("input, select, button, [role=img], a")]
      .filter((element) => {
        const labels = (element as HTMLInputElement).labels?.length ?? 0;
        return labels === 0 && !element.ariaLabel && (element.textContent ?? "").trim() === "";
      })
      .map((element) => element.outerHTML),
  );
  expect(nameless).toEqual([]);
  const reached: string[] = [];
  for (let i = 0; i < 20; i++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement?.id || (document.activeElement?.ariaLabel ?? "")));
  }
  for (const one of ["log", "scrub", "Scheduler 1", "Sigmas of scheduler 1", "Remove scheduler 3", "add", "steps"]) {
    expect(reached).toContain(one);
  }
});
