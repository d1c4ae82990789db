// @ts-check
/** The layers of the picture on a canvas: colour and grey copy, drops, frames of patches. */
import { imageOf, overlayOf } from "./colours.js";
import { reachOf } from "./heatmap.js";
import { luma } from "./pictures.js";
import { resize } from "./resample.js";

/** @typedef {import("./pictures.js").Picture} Picture */
/** @typedef {import("./heatmap.js").Heatmap} Heatmap */
/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Context */

/** Models see small pictures: they are enlarged by a whole factor to about this many dots. */
const DOTS = 1024;

/** @param {number} height @param {number} width */
export const enlargement = (height, width) => Math.max(1, Math.round(DOTS / Math.max(height, width)));

/**
 * @param {Picture} picture
 * @returns {{colour: OffscreenCanvas, grey: OffscreenCanvas}} enlarged by Lanczos, as the plots in Python are
 */
export function enlarged({ pixels, height, width, channels }) {
  const times = enlargement(height, width);
  const [toHeight, toWidth] = [height * times, width * times];
  const large = times === 1 ? pixels : resize(pixels, [height, width], [toHeight, toWidth], channels, "lanczos");
  const image = imageOf({ pixels: large, height: toHeight, width: toWidth, channels });
  const colour = canvasOf(image);
  for (let i = 0; i < image.data.length; i += 4) {
    image.data.fill(luma(image.data[i], image.data[i + 1], image.data[i + 2]), i, i + 3);
  }
  return { colour, grey: canvasOf(image) };
}

/**
 * @param {Heatmap} heatmap
 * @param {{height: number, width: number}} picture
 * @returns {{canvas: OffscreenCanvas, reach: number}} drops in the picture's own pixels
 */
export function drops(heatmap, { height, width }) {
  const pixels = heatmap.toPixels();
  const reach = reachOf(pixels.values);
  return { canvas: canvasOf(overlayOf(pixels, reach, height, width)), reach };
}

/** @param {ImageData} image */
function canvasOf(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return canvas;
}

/**
 * The picture turns to grey and takes on the drops as `opacity` goes from 0 to 1.
 * @param {Context} context
 * @param {{colour: OffscreenCanvas, grey: OffscreenCanvas}} picture
 * @param {OffscreenCanvas | null} overlay
 * @param {number} opacity
 * @param {{x: number, y: number, width: number, height: number}} box where
 */
export function paint(context, picture, overlay, opacity, { x, y, width, height }) {
  context.globalAlpha = 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.colour, x, y, width, height);
  if (!overlay) return;
  context.globalAlpha = opacity;
  context.drawImage(picture.grey, x, y, width, height);
  context.imageSmoothingQuality = "low"; // bilinear, as in Python: better filters overshoot
  context.drawImage(overlay, x, y, width, height);
  context.globalAlpha = 1;
}

/** A light line in a dark one is seen on any ground: widths in dots of the screen. @type {[number, string][]} */
const FRAME = [
  [3.5, "rgb(0 0 0 / 0.85)"],
  [1.5, "white"],
];

/**
 * The frame of a patch.
 * @param {Context} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {number} dot how many dots of the canvas a dot on the screen takes
 * @param {boolean} dashed
 */
export function frame(context, { x, y, width, height }, dot, dashed) {
  context.setLineDash(dashed ? [4 * dot, 3 * dot] : []);
  for (const [line, colour] of FRAME) {
    context.lineWidth = line * dot;
    context.strokeStyle = colour;
    context.strokeRect(x, y, width, height);
  }
  context.setLineDash([]);
}
