/** What a page's own `fetch` does with the hub's answers: redirects to another origin, tokens, ranges, preflights. */
import { expect, type Page, test } from "@playwright/test";
import { type Hub, startHub } from "../support/hub_server.mjs";

const repo = "owner/name";
const commit = "a".repeat(40);
const weights = "unet/diffusion_pytorch_model.safetensors";
// Much more than a browser holds of an answer that is not read yet: that is lost when the connection is cut.
const size = 12_000_000;
const large = Uint8Array.from({ length: size }, (_, i) => (i * 7 + (i >> 8)) % 256);

let hub: Hub;

test.beforeAll(async () => {
  const files = { [weights]: large, "model_index.json": JSON.stringify({ words: "word ".repeat(500) }) };
  hub = await startHub({
    repos: { [repo]: { gated: true, revisions: { main: commit }, commits: { [commit]: files } } },
  });
});
test.afterAll(() => hub.close());
test.beforeEach(async ({ page }) => {
  hub.clearFaults();
  hub.requests.length = 0;
  await page.goto("/tests/browser/harness/hub.html");
});

/** Loads both files in the page; the weights' size and sum. */
function load(page: Page, options: object): Promise<[number, number]> {
  return page.evaluate((settings) => window.loadFromHub(settings), { id: repo, endpoint: hub.url, ...options });
}
const sum = large.reduce((total, byte) => total + byte, 0);

test("a gated repository's token goes to the hub and not to the CDN, where no preflight is needed either", async ({
  page,
}) => {
  hub.fault(weights, { cut: 10_000_000 });
  expect(await load(page, { token: "hf_test", cache: false })).toEqual([size, sum]);
  expect(hub.leaks).toEqual([]);
  const cdn = hub.requests.filter(({ host }) => host === "cdn");
  expect(cdn.map(({ method, status }) => [method, status])).toEqual([
    ["GET", 200],
    ["GET", 206],
  ]);
  // What another address answers to a request with a token is asked for beforehand by the browser.
  expect(hub.requests.some(({ kind }) => kind === "preflight")).toBe(true);
});

test("without a token there is no preflight at all, also for a range", async ({ page }) => {
  hub.setRepo(repo, {
    revisions: { main: commit },
    commits: { [commit]: { [weights]: large, "model_index.json": "{}" } },
  });
  hub.fault(weights, { cut: 10_000_000 });
  expect(await load(page, { cache: false })).toEqual([size, sum]);
  expect(hub.requests.map(({ method }) => method)).toEqual(Array(hub.requests.length).fill("GET"));
  expect(hub.requests.filter(({ kind }) => kind === "cdn").map(({ status }) => status)).toEqual([200, 206]);
});

test("in IndexedDB, a second page load makes no request", async ({ page }) => {
  const expected = await load(page, { token: "hf_test" });
  hub.requests.length = 0;
  await page.reload();
  expect(await load(page, {})).toEqual(expected);
  expect(hub.requests).toEqual([]);
});
