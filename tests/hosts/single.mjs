// The page's `explain`, called by tests/test_hosts.py and, several times, by bench/hosts.py.
import fs from "node:fs";
import { explain } from "./snippet.mjs";

const [packageName, provider, file, picture, height, width, target, repeats] = process.argv.slice(2);
const ort = (await import(packageName)).default;
const model = new Uint8Array(fs.readFileSync(file));
const session = await ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
const pixels = new Uint8Array(fs.readFileSync(picture));
const seconds = [];
let found;
for (let n = 0; n < Number(repeats); n++) {
  const started = performance.now();
  found = await explain(ort, session, pixels, Number(height), Number(width), Number(target));
  seconds.push((performance.now() - started) / 1000);
}
console.log(JSON.stringify({ ...found, scores: Array.from(found.scores), seconds }));
