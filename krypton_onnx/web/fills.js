// @ts-check
/** What a patch shows: a colour in pixels, red, green and blue, or one level for a grey model. */
import { element } from "./page.js";
import { meanColour } from "./pictures.js";

/** @typedef {import("./pictures.js").Picture} Picture */

/** @type {Record<string, number>} */
const LEVELS = { black: 0, gray: 128, white: 255 };

export class Fills {
  #fieldset = element("fills", HTMLFieldSetElement);
  #colour = element("colour", HTMLInputElement);

  /** @param {() => void} onChange */
  constructor(onChange) {
    this.#fieldset.addEventListener("change", (event) => {
      if (event.target === this.#colour) this.#radio("custom").checked = true;
      onChange();
    });
    // a colour that is looked at again counts as chosen, though the picker then reports no change
    this.#colour.addEventListener("click", () => {
      if (this.name === "custom") return;
      this.#radio("custom").checked = true;
      onChange();
    });
  }

  get name() {
    return /** @type {HTMLInputElement} */ (this.#fieldset.querySelector("[name=fill]:checked")).value;
  }

  /** @param {Picture} picture @returns {number[]} per channel */
  colour(picture) {
    if (this.name === "mean") return meanColour(picture);
    if (this.name !== "custom") return new Array(picture.channels).fill(LEVELS[this.name]);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(this.#colour.value.slice(at, at + 2), 16));
    return picture.channels === 3 ? [red, green, blue] : [0.299 * red + 0.587 * green + 0.114 * blue];
  }

  /** @param {Picture} picture whose mean colour is shown on its swatch */
  show(picture) {
    const mean = meanColour(picture).map(Math.round);
    const [red, green, blue] = mean.length === 3 ? mean : [mean[0], mean[0], mean[0]];
    const swatch = /** @type {HTMLElement} */ (this.#fieldset.querySelector("[data-swatch=mean]"));
    swatch.style.background = `rgb(${red} ${green} ${blue})`;
  }

  /** @param {string} name */
  #radio(name) {
    return /** @type {HTMLInputElement} */ (this.#fieldset.querySelector(`[value=${name}]`));
  }
}
