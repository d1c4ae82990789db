// @ts-check
/** Scores on the grid and what follows from them: the numbers of krypton_onnx/heatmap.py, while they come in. */

/** @typedef {import("./model.js").Model} Model */
/** @typedef {{row: number, col: number, y: number, x: number, score: number, drop: number}} Place */

/** What is known of a pixel's drop. */
export const PIXEL = Object.freeze({ UNCOVERED: 0, PENDING: 1, KNOWN: 2, UNDEFINED: 3 });

export class Heatmap {
  #model;
  #finished = false;
  /** @type {Float64Array | null} */
  #covering = null;

  /** @param {Model} model @param {number} target @param {number} baseScore */
  constructor(model, target, baseScore) {
    this.#model = model;
    this.target = target;
    this.baseScore = baseScore;
    this.rows = model.rows.length;
    this.cols = model.cols.length;
    this.scores = new Float32Array(this.rows * this.cols).fill(NaN);
  }

  /** @param {Float32Array} part scores, NaN where another part has them */
  merge(part) {
    part.forEach((score, i) => {
      if (!Number.isNaN(score)) this.scores[i] = score;
    });
  }

  /** All parts are in: a score that still is NaN is the model's own. */
  finish() {
    this.#finished = true;
  }

  /** In float32, so that a score that equals the base's drops by exactly 0. @param {number} index */
  #drop(index) {
    return Math.fround(this.baseScore - this.scores[index]);
  }

  /** @param {number} index */
  #isKnown(index) {
    return this.#finished || !Number.isNaN(this.scores[index]);
  }

  /** @param {number} row @param {number} col @returns {Place | null} null as long as it is not known */
  at(row, col) {
    const index = row * this.cols + col;
    if (!this.#isKnown(index)) return null;
    const [y, x] = [this.#model.rows[row], this.#model.cols[col]];
    return { row, col, y, x, score: this.scores[index], drop: this.#drop(index) };
  }

  /** The place of the largest drop, the first in row-major order where several tie. @returns {Place | null} */
  largest() {
    let best = -1;
    for (let i = 0; i < this.scores.length; i++) {
      const drop = this.#drop(i);
      if (!Number.isNaN(drop) && (best < 0 || drop > this.#drop(best))) best = i;
    }
    return best < 0 ? null : this.at(Math.floor(best / this.cols), best % this.cols);
  }

  /** The grid position whose patch has its centre next to a pixel. @param {number} y @param {number} x */
  nearest(y, x) {
    const [height, width] = this.#model.patch;
    return { row: closest(this.#model.rows, y - height / 2), col: closest(this.#model.cols, x - width / 2) };
  }

  /**
   * The mean drop of the patches that cover a pixel, of those that are known so far.
   * @returns {{values: Float32Array, states: Uint8Array}} [H, W] each: drops, NaN unless known, and `PIXEL`s
   */
  toPixels() {
    const { scores } = this;
    this.#covering ??= this.#sumOverPatches(() => 1); // the same for every part
    const covering = this.#covering;
    const known = this.#sumOverPatches((i) => (this.#isKnown(i) ? 1 : 0));
    const undefinedOnes = this.#sumOverPatches((i) => (this.#isKnown(i) && !Number.isFinite(scores[i]) ? 1 : 0));
    const total = this.#sumOverPatches((i) => (Number.isFinite(scores[i]) ? this.#drop(i) : 0));
    const values = new Float32Array(total.length).fill(NaN);
    const states = new Uint8Array(total.length);
    for (let i = 0; i < total.length; i++) {
      if (!covering[i]) states[i] = PIXEL.UNCOVERED;
      else if (!known[i]) states[i] = PIXEL.PENDING;
      else if (undefinedOnes[i] || !Number.isFinite(this.baseScore)) states[i] = PIXEL.UNDEFINED;
      else {
        states[i] = PIXEL.KNOWN;
        values[i] = total[i] / known[i];
      }
    }
    return { values, states };
  }

  /**
   * For each pixel the sum of values over the patches that cover it. Each patch adds its value at its first row and
   * column and takes it back behind its last; running sums spread it, whatever the patch's area.
   * @param {(index: number) => number} value
   * @returns {Float64Array} [H, W]
   */
  #sumOverPatches(value) {
    const { patch, rows, cols } = this.#model;
    const [height, width] = this.#model.image_size;
    const stride = width + 1;
    const steps = new Float64Array((height + 1) * stride);
    rows.forEach((top, row) => {
      cols.forEach((left, col) => {
        const added = value(row * cols.length + col);
        const [bottom, right] = [top + patch[0], left + patch[1]];
        steps[top * stride + left] += added;
        steps[top * stride + right] -= added;
        steps[bottom * stride + left] -= added;
        steps[bottom * stride + right] += added;
      });
    });
    const sums = new Float64Array(height * width);
    for (let y = 0; y < height; y++) {
      let along = 0;
      for (let x = 0; x < width; x++) {
        along += steps[y * stride + x];
        sums[y * width + x] = along + (y ? sums[(y - 1) * width + x] : 0);
      }
    }
    return sums;
  }
}

/** @param {number[]} sorted @param {number} value @returns {number} index of the closest */
function closest(sorted, value) {
  let best = 0;
  for (let i = 1; i < sorted.length; i++) {
    if (Math.abs(sorted[i] - value) < Math.abs(sorted[best] - value)) best = i;
  }
  return best;
}

/** The largest magnitude, which the colours reach to. @param {Float32Array} values NaN where unknown */
export function reachOf(values) {
  let reach = 0;
  for (const value of values) if (Math.abs(value) > reach) reach = Math.abs(value);
  return reach;
}
