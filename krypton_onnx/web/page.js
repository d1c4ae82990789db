// @ts-check
/** The page around the canvas: headline, progress, what can be done in which state. */
import { SCALE } from "./colours.js";
import { duration, number, position, signed } from "./format.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./heatmap.js").Place} Place */
/** @typedef {"loading" | "ready" | "working" | "done" | "error"} State */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {{new (): T}} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html has no ${kind.name} ${id}`);
  return found;
}

const PARTS = ["title", "score", "message", "live", "bar", "progress", "readout", "least", "most"];
const [title, score, message, live, bar, progress, readout, least, most] = PARTS.map((id) => element(id, HTMLElement));

/** @param {Model} model */
export function describe(model) {
  const [height, width] = model.image_size;
  const [patchHeight, patchWidth] = model.patch;
  const places = model.rows.length * model.cols.length;
  document.documentElement.style.setProperty("--aspect", String(width / height));
  document.title = `${model.name} · occlusion heatmaps`;
  element("model-name", HTMLElement).textContent = model.name;
  element("model-facts", HTMLElement).textContent = `sees ${width} × ${height} pixels`;
  element("patch-size", HTMLElement).textContent = `${patchWidth} × ${patchHeight}`;
  element("positions", HTMLElement).textContent = places.toLocaleString("en");
  element("how", HTMLElement).hidden = false;
  element("scale", HTMLElement).style.background = `linear-gradient(to right, ${SCALE.join(", ")})`;
}

/** @param {State} state */
export function setState(state) {
  document.body.dataset.state = state;
}

/** @returns {State} */
export const state = () => /** @type {State} */ (document.body.dataset.state);

/**
 * @param {string} heading
 * @param {string} text
 * @param {string} aside beside the heading
 */
export function say(heading, text, aside = "") {
  title.textContent = heading;
  title.title = heading;
  score.textContent = aside;
  message.textContent = text;
}

/** Read aloud; not for every step of a progress. @param {string} text */
export function announce(text) {
  live.textContent = text;
}

/** @param {number} share from 0 to 1 */
export function advance(share) {
  bar.style.transform = `scaleX(${share})`;
  progress.setAttribute("aria-valuenow", String(Math.round(100 * share)));
}

/** Shows or hides what makes sense with a picture only. @param {boolean} there */
export function showPictureTools(there) {
  document.body.toggleAttribute("data-empty", !there);
  for (const id of ["canvas", "prediction", "fills", "saving", "another"]) element(id, HTMLElement).hidden = !there;
  element("drop", HTMLElement).hidden = there;
  element("pictures", HTMLElement).hidden = !there && !document.querySelector("#samples button");
  element("pictures-title", HTMLElement).textContent = there ? "Picture" : "Or try one of these";
}

/**
 * @param {"stop" | "again" | null} which of the two buttons is offered
 * @param {number} seconds that a finished heatmap took
 */
export function offer(which, seconds = 0) {
  element("took", HTMLElement).textContent = seconds ? `Took ${duration(seconds)}` : "";
  for (const id of ["stop", "again"]) element(id, HTMLElement).hidden = id !== which;
}

/** @param {boolean} possible */
export function allowSaving(possible) {
  for (const id of ["save-picture", "save-scores"]) element(id, HTMLButtonElement).disabled = !possible;
}

/** @param {number} reach 0 as long as nothing is known */
export function setReach(reach) {
  least.textContent = reach ? `${number(-reach)} opposes` : "opposes";
  most.textContent = reach ? `supports ${signed(reach)}` : "supports";
}

/** @param {Place | null} place that is pointed at @param {boolean} asked whether one is */
export function read(place, asked) {
  if (!place) {
    readout.replaceChildren(asked ? "No score yet" : "Point at a place to read its score");
    return;
  }
  const drop = document.createElement("b");
  drop.textContent = `drop ${signed(place.drop)}`;
  readout.replaceChildren(`${sentenceCase(position(place))}: score ${number(place.score)}, `, drop);
}

/** @param {string} text */
const sentenceCase = (text) => text[0].toUpperCase() + text.slice(1);

/** @param {Place | null} place of the largest drop @returns {string} */
export function summary(place) {
  if (!place) return "The model gives no numbers for this class.";
  if (place.drop <= 0) return "Hiding no place lowers the score: none of them supports it by itself.";
  return `Hiding the patch at ${position(place)} lowers the score most, by ${number(place.drop)}.`;
}
