// @ts-check
/** From start to saved heatmap: what happens, in this order. The modules say how. */
import { Classes } from "./classes.js";
import { UserError, isAbort, sentence } from "./errors.js";
import { explain, predict } from "./explain.js";
import { Fills } from "./fills.js";
import { megabytes, number, remaining } from "./format.js";
import { fromAddress, showName, takePictures } from "./intake.js";
import { RUNTIME, className, download, loadModel } from "./model.js";
import * as page from "./page.js";
import { decode, prepare } from "./pictures.js";
import { Pool, workersFor } from "./pool.js";
import { offerDownload, scoresOf, sheetOf } from "./save.js";
import { View } from "./view.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./pictures.js").Picture} Picture */
/** @typedef {import("./intake.js").Source} Source */
/** @typedef {import("./save.js").Finished} Finished */

const ASK = "Where does the model look?";

/** For tests, and for whoever looks from the console. @type {{result: object | null}} */
const published = { result: null };

class App {
  /** Aborted when something newer takes over. */
  #job = new AbortController();
  /** @type {{picture: Picture, name: string} | null} */
  #open = null;
  /** @type {Finished | null} */
  #finished = null;
  #target = -1;

  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    page.describe(model);
    this.view = new View(page.element("canvas", HTMLCanvasElement), model, page.read);
    this.classes = new Classes(model, (target) => this.#run((signal) => this.#explain(target, signal)));
    this.fills = new Fills(() => this.#run((signal) => this.#explain(this.#target, signal)));
    this.pool = this.#load();
    this.#listen();
  }

  /** Replaces whatever runs. @param {(signal: AbortSignal) => Promise<void>} action */
  async #run(action) {
    this.#job.abort();
    this.#job = new AbortController();
    const { signal } = this.#job;
    try {
      await action(signal);
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.#job.abort(); // the other parts of a failed explanation
      fail(error);
      page.offer(this.#target >= 0 && !this.#finished ? "again" : null);
    }
  }

  /** @returns {Promise<Pool>} */
  async #load() {
    const { file, bytes } = this.model;
    const counts = { model: [0, bytes], runtime: [0, 0] };
    const show = () => {
      const [received, total] = [0, 1].map((i) => counts.model[i] + counts.runtime[i]);
      page.advance(received / total);
      if (this.#open || page.state() !== "loading") return;
      page.say(ASK, `Loading the model, ${megabytes(received)} of ${megabytes(total)} MB`);
    };
    const files = [
      download(file, bytes, (...count) => {
        counts.model = count;
        show();
      }),
      download(RUNTIME, null, (...count) => {
        counts.runtime = count;
        show();
      }),
    ];
    const [model, runtime] = await Promise.all(files);
    if (!this.#open && page.state() === "loading") page.say(ASK, "Starting the model");
    return Pool.start(workersFor(bytes), model, runtime);
  }

  #listen() {
    takePictures((source) => this.open(source), this.model.samples);
    page.showPictureTools(false);
    page.element("stop", HTMLElement).addEventListener("click", () => this.#stop());
    page.element("again", HTMLElement).addEventListener("click", () => {
      void this.#run((signal) => this.#explain(this.#target, signal));
    });
    const opacity = page.element("opacity", HTMLInputElement);
    const buttons = ["show-heatmap", "show-picture"].map((id) => page.element(id, HTMLButtonElement));
    const look = (/** @type {boolean} */ heatmap) => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(heatmap === (i === 0))));
      this.view.fade(heatmap ? opacity.valueAsNumber / 100 : 0);
    };
    buttons.forEach((button, i) => button.addEventListener("click", () => look(i === 0)));
    opacity.addEventListener("input", () => look(true));
    page.element("save-picture", HTMLElement).addEventListener("click", async () => {
      if (this.#finished) offerDownload(await sheetOf(this.#finished), this.#fileName("png"));
    });
    page.element("save-scores", HTMLElement).addEventListener("click", () => {
      if (this.#finished) offerDownload(scoresOf(this.#finished), this.#fileName("json"));
    });
  }

  /** As `krypton-onnx explain` names it. @param {string} suffix */
  #fileName(suffix) {
    return `${this.#finished?.name.replace(/\.[^.]*$/, "")}.heatmap.${suffix}`;
  }

  /** @param {Promise<Source>} source */
  open(source) {
    return this.#run(async (signal) => {
      const { name, blob } = await source;
      const bitmap = await decode(blob, name);
      signal.throwIfAborted();
      const picture = await prepare(bitmap, this.model).finally(() => bitmap.close());
      signal.throwIfAborted();
      this.#show(picture, name);
      const pool = await this.pool;
      signal.throwIfAborted();
      page.setState("working");
      page.advance(0);
      page.say("Looking at the picture", "Running the model");
      const { values, top } = await predict(pool, this.model, picture, signal);
      this.classes.show(values);
      await this.#explain(top, signal);
    });
  }

  /** @param {Picture} picture @param {string} name */
  #show(picture, name) {
    this.#open = { picture, name };
    this.#target = -1;
    this.#forget();
    showName(name);
    this.fills.show(picture);
    this.classes.clear();
    this.view.showPicture(picture);
    page.showPictureTools(true);
    page.offer(null);
    page.element("how", HTMLDetailsElement).open = false;
    page.say("Looking at the picture", "Waiting for the model to load");
  }

  #forget() {
    this.#finished = null;
    published.result = null;
    page.allowSaving(false);
    page.setReach(0);
  }

  /** @param {number} target @param {AbortSignal} signal */
  async #explain(target, signal) {
    if (!this.#open || target < 0) return;
    const { picture, name } = this.#open;
    const { model } = this;
    const heading = className(model, target);
    const [fillName, fill] = [this.fills.name, this.fills.colour(picture)];
    const aside = this.#scoreOf(target);
    this.#target = target;
    this.#forget();
    this.classes.choose(target);
    page.setState("working");
    page.offer("stop");
    page.announce(`Explaining ${heading}, ${aside}`);
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    const question = { target, baseScore: this.classes.value(target), fill };
    const heatmap = await explain(await this.pool, model, picture, question, signal, (partial, done, parts) => {
      if (done === parts) return; // the whole is drawn below
      const left = done ? `, ${remaining((seconds() / done) * (parts - done))} left` : "";
      page.say(heading, `Hiding one place after another: part ${done} of ${parts}${left}`, aside);
      page.advance(done / parts);
      page.setReach(this.view.showHeatmap(partial));
    });
    const took = seconds();
    page.setReach(this.view.showHeatmap(heatmap));
    this.#finished = { model, picture, name, heatmap, unit: this.classes.unit, fillName, fill, seconds: took };
    const { baseScore, scores, rows, cols } = heatmap;
    published.result = { target, baseScore, heatmap: [...scores], rows, cols, fill, seconds: took };
    const text = page.summary(heatmap.largest());
    page.say(heading, text, aside);
    page.announce(`${heading}, ${aside}. ${text}`);
    page.offer(null, took);
    page.allowSaving(true);
    page.setState("done");
  }

  #stop() {
    this.#job.abort();
    page.offer("again");
    page.setState("ready");
    const text = "Stopped. What is shown so far is not the whole heatmap.";
    page.say(className(this.model, this.#target), text, this.#scoreOf(this.#target));
    page.announce(text);
  }

  /** @param {number} target */
  #scoreOf(target) {
    return `${this.classes.unit} ${number(this.classes.value(target))}`;
  }
}

/** @param {unknown} error @param {string} heading */
function fail(error, heading = "That did not work") {
  if (!(error instanceof UserError)) console.error(error);
  const text = sentence(error);
  page.setState("error");
  page.say(heading, text);
  page.announce(text);
}

/** Nothing can be explained any more. @param {unknown} error */
function giveUp(error) {
  document.body.toggleAttribute("data-fatal", true);
  fail(error, "This page cannot start");
}

async function start() {
  const app = new App(await loadModel());
  const address = new URLSearchParams(location.search).get("picture");
  if (address) void app.open(fromAddress(address));
  await app.pool;
  if (page.state() !== "loading") return;
  page.setState("ready");
  page.say(ASK, "Choose a picture, and see on which places its prediction rests.");
  page.announce("Ready: choose a picture");
}

Object.assign(window, { krypton: published });
window.addEventListener("unhandledrejection", (event) => fail(event.reason));
start().catch(giveUp);
