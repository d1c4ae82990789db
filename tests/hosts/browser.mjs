// Opens an exported page in Chromium until it is done, and says what it found.
//
//   KRYPTON_HOSTS=FOLDER node browser.mjs URL SCREENSHOT.png
//
// FOLDER/node_modules holds playwright-core; CHROMIUM names the browser. Prints one JSON object,
// {state, message, result, consoleErrors}; a score that is not finite is null in it.
import { createRequire } from "node:module";
import { resolve } from "node:path";

const TIMEOUT = 120_000;

const [url, screenshot] = process.argv.slice(2);
const { chromium } = createRequire(resolve(process.env.KRYPTON_HOSTS ?? ".", "package.json"))("playwright-core");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  const consoleErrors = [];
  page.on("console", (message) => message.type() === "error" && consoleErrors.push(message.text()));
  page.on("pageerror", (error) => consoleErrors.push(String(error)));
  await page.goto(url);
  const ended = () => ["done", "error"].includes(document.body.dataset.state);
  // a page that hangs is reported as it stands, which tells more than a timeout
  await page.waitForFunction(ended, null, { timeout: TIMEOUT }).catch(() => null);
  const found = await page.evaluate(() => ({
    state: document.body.dataset.state,
    message: document.getElementById("message")?.textContent ?? null,
    result: window.krypton?.result ?? null,
  }));
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
  await page.screenshot({ path: screenshot });
  console.log(JSON.stringify({ ...found, consoleErrors }));
} finally {
  await browser.close();
}
