/** Downloads kept in IndexedDB on a disk (the other specs' are in memory, as in private windows): the browser crashes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, expect, type Page, test } from "@playwright/test";

const part = 4 * 2 ** 20;

test("what was appended survives a crash of the browser, and no half file is taken for a whole one", async ({
  playwright,
  launchOptions,
  baseURL,
}) => {
  test.slow();
  const folder = mkdtempSync(join(tmpdir(), "diffusers-web-cache-"));
  let context: BrowserContext | undefined;
  const open = async (): Promise<Page> => {
    context = await playwright.chromium.launchPersistentContext(folder, { ...launchOptions, baseURL: baseURL! });
    const page = await context.newPage();
    await page.goto("/tests/browser/harness/cache.html");
    await page.waitForFunction("window.tools");
    return page;
  };
  try {
    let awaited = 0;
    for (let round = 0; round < 3; round++) {
      const page = await open();
      const found = await page.evaluate(async (size) => {
        const { openIndexedDbStore, keyOf, bytesOf, keep, check } = window.tools;
        const store = await openIndexedDbStore();
        const whole = [await check(store, keyOf("whole")), await check(store, keyOf("half"))];
        await keep(store, keyOf("whole"), 1000);
        const file = await store.begin(keyOf("half"), { path: "half", size: 12 * size });
        const { offset, hash } = file;
        const append = (): Promise<void> =>
          file.append([bytesOf(file.offset, file.offset + size)], new Uint8Array([file.offset / size + 1]));
        await append();
        await append();
        const kept = file.offset;
        // In flight when the browser ends.
        append().catch(() => undefined);
        return { whole, offset, hash: hash?.[0], kept };
      }, part);
      expect(found.whole).toEqual([round === 0 ? undefined : [1000, -1], undefined]);
      expect([awaited, awaited + part]).toContain(found.offset);
      expect(found.hash).toBe(found.offset === 0 ? undefined : found.offset / part);
      awaited = found.kept;
      const session = await context!.browser()!.newBrowserCDPSession();
      const closed = context!.waitForEvent("close");
      // It does not answer any more.
      session.send("Browser.crash").catch(() => undefined);
      await closed;
    }
    const page = await open();
    const end = await page.evaluate(async (size) => {
      const { openIndexedDbStore, keyOf, appendUntil, check } = window.tools;
      const store = await openIndexedDbStore();
      const file = await store.begin(keyOf("half"), { path: "half", size: 12 * size });
      await appendUntil(file, 12 * size, size);
      await file.complete();
      await (await store.begin(keyOf("whole"), { path: "whole", size: 1000 })).complete();
      // Of several parts, as a worker reads them.
      return {
        check: await check(store, keyOf("half")),
        read: await window.inWorker("read", "half", [[0, 12 * size]]),
      };
    }, part);
    expect(end.check).toEqual([12 * part, -1]);
    expect(end.read).toEqual({ size: 12 * part, read: [[12 * part, -1]], afterClose: 0 });
  } finally {
    await context?.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
