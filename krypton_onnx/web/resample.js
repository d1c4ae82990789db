// @ts-check
/**
 * Pillow's resize, level for level: what a model saw in training was most likely made by it, and the browser's own
 * scaling differs by many levels where it shrinks (it does not widen the filter).
 */

/** @typedef {"bilinear" | "bicubic" | "lanczos" | "nearest"} Filter */

/**
 * For each output position the first input position that counts, and its weights in fixed point.
 * @typedef {object} Table
 * @property {number} size how many output positions there are
 * @property {number} taps room for weights per position
 * @property {Int32Array} starts
 * @property {Int32Array} counts
 * @property {Int32Array} weights [size, taps]
 */

/** Pillow keeps 8 bits for the level and 2 for filters that overshoot. */
const PRECISION = 32 - 8 - 2;

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** @type {Record<Exclude<Filter, "nearest">, {support: number, weight: (x: number) => number}>} */
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (signed) => {
      const a = -0.5;
      const x = Math.abs(signed);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/**
 * @param {number} from extent before
 * @param {number} to extent after
 * @param {Filter} filter
 * @returns {Table}
 */
export function resampleTable(from, to, filter) {
  if (filter === "nearest") return nearestTable(from, to);
  const { support, weight } = FILTERS[filter];
  const scale = from / to;
  const stretch = Math.max(scale, 1); // when shrinking the filter covers all of the input
  const reach = support * stretch;
  const taps = Math.ceil(reach) * 2 + 1;
  const table = emptyTable(to, taps);
  const raw = new Float64Array(taps);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const count = Math.min(from, Math.trunc(centre + reach + 0.5)) - first;
    let total = 0;
    for (let k = 0; k < count; k++) total += raw[k] = weight((k + first - centre + 0.5) / stretch);
    table.starts[i] = first;
    table.counts[i] = count;
    for (let k = 0; k < count; k++) table.weights[i * taps + k] = fixedPoint(total === 0 ? raw[k] : raw[k] / total);
  }
  return table;
}

/**
 * Nearest as a table of single weights, so that it needs no code of its own.
 * @param {number} from
 * @param {number} to
 * @returns {Table}
 */
function nearestTable(from, to) {
  const table = emptyTable(to, 1);
  const step = from / to;
  let place = step * 0.5; // Pillow adds the steps up; multiplying would round differently
  for (let i = 0; i < to; i++, place += step) {
    table.starts[i] = Math.min(from - 1, Math.trunc(place));
    table.counts[i] = 1;
    table.weights[i] = fixedPoint(1);
  }
  return table;
}

/** @param {number} size @param {number} taps @returns {Table} */
function emptyTable(size, taps) {
  const [starts, counts, weights] = [size, size, size * taps].map((length) => new Int32Array(length));
  return { size, taps, starts, counts, weights };
}

/** @param {number} weight */
const fixedPoint = (weight) => Math.trunc(weight * 2 ** PRECISION + (weight < 0 ? -0.5 : 0.5));

/**
 * The pass along rows.
 * @param {Uint8Array} pixels [height, width, channels]
 * @param {number} height
 * @param {number} width
 * @param {number} channels
 * @param {Table} table
 * @returns {Uint8Array} [height, table.size, channels]
 */
export function resampleRows(pixels, height, width, channels, table) {
  return resampleAxis(pixels, height, width, channels, table);
}

/**
 * The pass along columns. Whole rows are mixed, so that it is the pass along rows of one very long "channel" axis.
 * @param {Uint8Array} pixels [height, width, channels]
 * @param {number} height
 * @param {number} width
 * @param {number} channels
 * @param {Table} table
 * @returns {Uint8Array} [table.size, width, channels]
 */
export function resampleColumns(pixels, height, width, channels, table) {
  return resampleAxis(pixels, 1, height, width * channels, table);
}

/**
 * Mixes the middle axis of [outer, length, inner].
 * @param {Uint8Array} pixels
 * @param {number} outer
 * @param {number} length
 * @param {number} inner
 * @param {Table} table
 * @returns {Uint8Array} [outer, table.size, inner]
 */
function resampleAxis(pixels, outer, length, inner, table) {
  const { size, taps, starts, counts, weights } = table;
  const mixed = new Uint8ClampedArray(outer * size * inner);
  let to = 0;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < size; i++) {
      const begin = (o * length + starts[i]) * inner;
      const firstWeight = i * taps;
      const lastWeight = firstWeight + counts[i];
      for (let c = 0; c < inner; c++) {
        let sum = 1 << (PRECISION - 1);
        let from = begin + c;
        for (let w = firstWeight; w < lastWeight; w++, from += inner) sum += pixels[from] * weights[w];
        mixed[to++] = sum >> PRECISION;
      }
    }
  }
  return new Uint8Array(mixed.buffer);
}

/**
 * Which pass comes first; each of them rounds, so that it shows. This is the rule of Pillow 13; older ones always begin
 * with rows, which differs where the height shrinks by far more pixels than the width.
 * @param {[number, number]} size (height, width) before
 * @param {[number, number]} wanted (height, width) after
 */
export function columnsFirst([height, width], [toHeight, toWidth]) {
  return height > toHeight && height - toHeight > 2 * (width - toWidth);
}

/**
 * @param {Uint8Array} pixels [height, width, channels]
 * @param {[number, number]} size (height, width) before
 * @param {[number, number]} wanted (height, width) after
 * @param {number} channels
 * @param {Filter} filter
 * @returns {Uint8Array}
 */
export function resize(pixels, size, wanted, channels, filter) {
  const [height, width] = size;
  const [toHeight, toWidth] = wanted;
  const alongRows = resampleTable(width, toWidth, filter);
  const alongColumns = resampleTable(height, toHeight, filter);
  if (columnsFirst(size, wanted)) {
    const mixed = resampleColumns(pixels, height, width, channels, alongColumns);
    return resampleRows(mixed, toHeight, width, channels, alongRows);
  }
  const mixed = resampleRows(pixels, height, width, channels, alongRows);
  return resampleColumns(mixed, height, toWidth, channels, alongColumns);
}
