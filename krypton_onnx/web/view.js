// @ts-check
/** The canvas: what it shows, and how it is asked about a place by pointer and keys. */
import { drops, enlarged, enlargement, frame, paint } from "./layers.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./heatmap.js").Heatmap} Heatmap */
/** @typedef {import("./heatmap.js").Place} Place */
/** @typedef {{row: number, col: number}} Cell */

/** @type {Record<string, [number, number]>} */
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class View {
  #canvas;
  #model;
  #onPlace;
  /** @type {{colour: OffscreenCanvas, grey: OffscreenCanvas} | null} */
  #picture = null;
  /** @type {Heatmap | null} */
  #heatmap = null;
  /** @type {OffscreenCanvas | null} */
  #overlay = null;
  /** @type {Cell | null} */
  #cell = null;
  #opacity = 1;
  #frame = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Model} model
   * @param {(place: Place | null, asked: boolean) => void} onPlace told what is known of the place that pointer or
   *   keys ask about, and whether they ask about any
   */
  constructor(canvas, model, onPlace) {
    this.#canvas = canvas;
    this.#model = model;
    this.#onPlace = onPlace;
    const [height, width] = model.image_size;
    const times = enlargement(height, width);
    [canvas.width, canvas.height] = [width * times, height * times];
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.#choose(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#choose(null));
  }

  /** @param {import("./pictures.js").Picture | null} picture */
  showPicture(picture) {
    this.#picture = picture && enlarged(picture);
    this.showHeatmap(null);
  }

  /**
   * Draws what is known of a heatmap.
   * @param {Heatmap | null} heatmap
   * @returns {number} the magnitude that the strongest colour stands for
   */
  showHeatmap(heatmap) {
    const [height, width] = this.#model.image_size;
    const found = heatmap && drops(heatmap, { height, width });
    this.#heatmap = heatmap;
    this.#overlay = found && found.canvas;
    this.#tell();
    this.#draw();
    return found ? found.reach : 0;
  }

  /** @param {number} opacity of the heatmap, from 0 to 1 */
  fade(opacity) {
    this.#opacity = opacity;
    this.#draw();
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [height, width] = this.#model.image_size;
    const y = ((event.clientY - box.top) / box.height) * height;
    const x = ((event.clientX - box.left) / box.width) * width;
    this.#choose(this.#heatmap && this.#heatmap.nearest(y, x));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = STEPS[event.key];
    if (event.key === "Escape") this.#choose(null);
    if (!step || !this.#heatmap) return;
    event.preventDefault();
    const from = this.#cell ?? this.#heatmap.largest() ?? { row: 0, col: 0 };
    const clamp = (/** @type {number} */ value, /** @type {number} */ end) => Math.min(end - 1, Math.max(0, value));
    this.#choose({
      row: clamp(from.row + step[0], this.#heatmap.rows),
      col: clamp(from.col + step[1], this.#heatmap.cols),
    });
  }

  /** @param {Cell | null} cell */
  #choose(cell) {
    if (cell?.row === this.#cell?.row && cell?.col === this.#cell?.col) return;
    this.#cell = cell;
    this.#tell();
    this.#draw();
  }

  #tell() {
    const place = this.#cell && this.#heatmap && this.#heatmap.at(this.#cell.row, this.#cell.col);
    this.#onPlace(place, this.#cell !== null);
  }

  /** Once per frame of the screen, however often it is asked for. */
  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      const context = this.#canvas.getContext("2d");
      if (!context) return;
      const { width, height } = this.#canvas;
      context.clearRect(0, 0, width, height);
      if (!this.#picture) return;
      paint(context, this.#picture, this.#overlay, this.#opacity, { x: 0, y: 0, width, height });
      const largest = this.#heatmap && this.#heatmap.largest();
      if (largest) this.#outline(context, largest, this.#cell !== null);
      if (this.#cell && this.#heatmap) {
        const { row, col } = this.#cell;
        this.#outline(context, { y: this.#model.rows[row], x: this.#model.cols[col] }, false);
      }
    });
  }

  /** @param {CanvasRenderingContext2D} context @param {{y: number, x: number}} origin @param {boolean} dashed */
  #outline(context, { y, x }, dashed) {
    const [patchHeight, patchWidth] = this.#model.patch;
    const times = this.#canvas.width / this.#model.image_size[1];
    const dot = this.#canvas.width / Math.max(1, this.#canvas.clientWidth);
    const inset = 2 * dot; // at the picture's edge half of the line would be cut off
    const [left, right] = [Math.max(inset, x * times), Math.min(this.#canvas.width - inset, (x + patchWidth) * times)];
    const [top, bottom] = [
      Math.max(inset, y * times),
      Math.min(this.#canvas.height - inset, (y + patchHeight) * times),
    ];
    const box = { x: left, y: top, width: right - left, height: bottom - top };
    frame(context, box, dot, dashed);
  }
}
