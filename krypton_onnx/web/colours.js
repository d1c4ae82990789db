// @ts-check
/** Colours as krypton_onnx/plot.py has them: red supports, blue opposes, over a grey copy of the picture. */
import { PIXEL } from "./heatmap.js";

/** @typedef {import("./pictures.js").Picture} Picture */

/** ColorBrewer's RdBu from blue to red, which matplotlib calls RdBu_r; linear between these. */
// prettier-ignore
const STOPS = [
  [5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
  [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31],
];

/** 256 colours from -1, opposes, to 1, supports: [256, 3]. */
const TABLE = Uint8ClampedArray.from({ length: 256 * 3 }, (_, i) => {
  const place = (Math.floor(i / 3) / 255) * (STOPS.length - 1);
  const lower = Math.min(STOPS.length - 2, Math.floor(place));
  const [from, to] = [STOPS[lower][i % 3], STOPS[lower + 1][i % 3]];
  return from + (place - lower) * (to - from);
});

/** @param {number} value from -1 to 1 @returns {Uint8ClampedArray} red, green, blue */
export function colourOf(value) {
  const entry = Math.min(255, Math.max(0, Math.floor((value + 1) * 128)));
  return TABLE.subarray(3 * entry, 3 * entry + 3);
}

/** The whole scale as stops of a CSS or canvas gradient, from blue to red. */
export const SCALE = STOPS.map(([red, green, blue]) => `rgb(${red} ${green} ${blue})`);

/** Pixels that wait for their scores lie under a veil, which lifts as parts come in. */
const VEIL = [128, 128, 132, 110];

/**
 * The drops to lay over a grey picture, the more opaque the larger they are; nothing where no patch lies.
 * @param {{values: Float32Array, states: Uint8Array}} pixels
 * @param {number} reach the magnitude of the strongest colour
 * @param {number} height
 * @param {number} width
 * @returns {ImageData}
 */
export function overlayOf({ values, states }, reach, height, width) {
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    if (states[i] === PIXEL.PENDING) image.data.set(VEIL, 4 * i);
    if (states[i] !== PIXEL.KNOWN) continue;
    const value = reach ? values[i] / reach : 0;
    image.data.set(colourOf(value), 4 * i);
    image.data[4 * i + 3] = 255 * 0.8 * Math.abs(value) ** 0.7;
  }
  return image;
}

/** @param {Picture} picture @returns {ImageData} */
export function imageOf({ pixels, height, width, channels }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 1 ? 0 : c)];
    image.data[4 * i + 3] = 255;
  }
  return image;
}
