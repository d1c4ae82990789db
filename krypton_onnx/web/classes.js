// @ts-check
/** The list of classes: the best ones, the explained one among them, and what a search finds. */
import { number } from "./format.js";
import { className } from "./model.js";
import { element } from "./page.js";

/** @typedef {import("./model.js").Model} Model */

const SHOWN = 5;

/**
 * Bars are probabilities where the values can be that, else they run from the lowest to the highest value of all.
 * @typedef {{unit: "probability" | "score", from: number, to: number}} Measure
 */

/** @param {Float32Array} values @returns {Measure} */
export function measureOf(values) {
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const value of values) {
    if (Number.isNaN(value)) continue;
    least = Math.min(least, value);
    most = Math.max(most, value);
    sum += value;
  }
  const shares = least >= 0 && most <= 1;
  const unit = shares && Math.abs(sum - 1) < 0.01 ? "probability" : "score";
  return shares ? { unit, from: 0, to: 1 } : { unit, from: least, to: most };
}

export class Classes {
  #model;
  #onChoice;
  /** @type {Float32Array} */
  #values = new Float32Array();
  #measure = measureOf(this.#values);
  #chosen = -1;
  #list = element("classes", HTMLOListElement);
  #search = element("search", HTMLInputElement);

  /** @param {Model} model @param {(index: number) => void} onChoice */
  constructor(model, onChoice) {
    this.#model = model;
    this.#onChoice = onChoice;
    this.#search.hidden = model.classes <= SHOWN;
    this.#search.addEventListener("input", () => this.#draw());
    this.#search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#list.querySelector("button")?.click();
    });
  }

  get unit() {
    return this.#measure.unit;
  }

  /** @param {number} index */
  value(index) {
    return this.#values[index];
  }

  /** @param {Float32Array} values of all classes */
  show(values) {
    this.#values = values;
    this.#measure = measureOf(values);
    this.#search.value = "";
    this.#search.disabled = !values.length;
    this.#list.setAttribute("aria-busy", String(!values.length));
    element("unit", HTMLElement).textContent = values.length ? this.#measure.unit : "";
    this.#draw();
  }

  /** Nothing is known yet of a new picture. */
  clear() {
    this.#chosen = -1;
    this.show(new Float32Array());
  }

  /** @param {number} index of the class that is explained */
  choose(index) {
    this.#chosen = index;
    this.#draw();
  }

  #draw() {
    const focused = this.#list.contains(document.activeElement);
    const found = this.#found();
    this.#list.replaceChildren(...found.map((index) => this.#row(index)));
    if (this.#search.value && !found.length) this.#list.append(part("li", "none", "No class of this name"));
    while (this.#list.children.length < Math.min(SHOWN, this.#model.classes)) this.#list.append(part("li", "", ""));
    if (focused) this.#list.querySelector(/** @type {"button"} */ ("[aria-pressed=true]"))?.focus();
  }

  /** @returns {number[]} the classes to list, best first */
  #found() {
    const wanted = this.#search.value.trim().toLowerCase();
    if (wanted) {
      return best(this.#values, SHOWN, (index) => className(this.#model, index).toLowerCase().includes(wanted));
    }
    const top = best(this.#values, SHOWN, () => true);
    if (this.#chosen >= 0 && !top.includes(this.#chosen)) top[top.length - 1] = this.#chosen;
    return top;
  }

  /** @param {number} index */
  #row(index) {
    const { from, to } = this.#measure;
    const share = to > from ? (this.#values[index] - from) / (to - from) : 0;
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(index === this.#chosen));
    button.title = `Explain ${className(this.#model, index)}`;
    const track = part("span", "track", "");
    const bar = document.createElement("i");
    bar.style.width = `${100 * Math.min(1, Math.max(0, share || 0))}%`;
    track.append(bar);
    const name = part("span", "name", className(this.#model, index));
    button.append(name, part("span", "value", number(this.#values[index])), track);
    button.addEventListener("click", () => {
      this.#search.value = "";
      this.#onChoice(index);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}

/** @param {string} tag @param {string} kind @param {string} text */
function part(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

/**
 * The largest values in one pass: a segmentation map has millions.
 * @param {Float32Array} values
 * @param {number} count
 * @param {(index: number) => boolean} accepts
 * @returns {number[]} indices, best first
 */
function best(values, count, accepts) {
  /** @type {number[]} */
  const found = [];
  const rank = (/** @type {number} */ index) => (Number.isNaN(values[index]) ? -Infinity : values[index]);
  for (let i = 0; i < values.length; i++) {
    const full = found.length === count;
    if ((full && rank(i) <= rank(found[count - 1])) || !accepts(i)) continue;
    if (full) found.pop();
    let place = found.length;
    while (place > 0 && rank(found[place - 1]) < rank(i)) place--;
    found.splice(place, 0, i);
  }
  return found;
}
