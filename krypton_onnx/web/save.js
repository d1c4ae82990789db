// @ts-check
/** What a finished heatmap is saved as: a sheet with picture, overlay and legend, and the numbers. */
import { SCALE } from "./colours.js";
import { number, position, signed } from "./format.js";
import { drops, enlarged, frame, paint } from "./layers.js";
import { className } from "./model.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./heatmap.js").Heatmap} Heatmap */
/** @typedef {import("./pictures.js").Picture} Picture */

/**
 * @typedef {object} Finished
 * @property {Model} model
 * @property {Picture} picture
 * @property {string} name of the picture
 * @property {Heatmap} heatmap
 * @property {string} unit of the score
 * @property {string} fillName
 * @property {number[]} fill
 * @property {number} seconds
 */

const WIDTH = 1600;
const MARGIN = 56;
const GAP = 40;
const LEGEND = 150;
const HEADING = 120;
const CAPTION = 96;
const MAX_PANEL = 1200;
const INK = "#1b1e22";
const SOFT = "#5c6168";

/** @param {Finished} finished @returns {Promise<Blob>} */
export function sheetOf(finished) {
  const { model, picture, heatmap, unit } = finished;
  const across = (WIDTH - 2 * MARGIN - GAP - LEGEND) / 2;
  const shrink = Math.min(1, MAX_PANEL / ((across * picture.height) / picture.width));
  const panel = { width: across * shrink, height: ((across * picture.height) / picture.width) * shrink };
  const left = (WIDTH - 2 * panel.width - GAP - LEGEND) / 2;
  const canvas = new OffscreenCanvas(WIDTH, Math.round(HEADING + panel.height + CAPTION));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  write(context, className(model, heatmap.target), left, 58, `600 34px ${font()}`, INK);
  write(context, subtitle(finished), left, 94, `20px ${font()}`, SOFT);

  const layers = enlarged(picture);
  const { canvas: overlay, reach } = drops(heatmap, picture);
  const first = { x: left, y: HEADING, ...panel };
  const second = { ...first, x: left + panel.width + GAP };
  paint(context, layers, null, 0, first);
  paint(context, layers, overlay, 1, second);
  outlineLargest(context, finished, first);
  outlineLargest(context, finished, second);
  drawLegend(context, { ...second, x: second.x + panel.width + 20, width: 22 }, reach);

  const below = HEADING + panel.height + 36;
  const [patchHeight, patchWidth] = model.patch;
  const places = (model.rows.length * model.cols.length).toLocaleString("en");
  const patch = `a patch of ${patchWidth} × ${patchHeight} pixels at ${places} places`;
  write(context, `${model.name}: ${unit} ${number(heatmap.baseScore)}`, left, below, `20px ${font()}`, SOFT);
  write(context, `${patch}, hidden with ${fillText(finished)}`, left, below + 30, `20px ${font()}`, SOFT);
  write(context, "colour: mean drop of all patches over a pixel", second.x, below, `20px ${font()}`, SOFT);
  write(context, `krypton-onnx ${model.version}`, second.x, below + 30, `20px ${font()}`, SOFT);
  return canvas.convertToBlob({ type: "image/png" });
}

/** @param {Finished} finished */
const fillText = ({ fillName, fill }) =>
  fillName === "custom" ? `the colour ${fill.map(Math.round).join(", ")}` : fillName;

/** @param {Finished} finished */
function subtitle({ heatmap, name }) {
  const largest = heatmap.largest();
  return largest ? `${name}: largest drop ${signed(largest.drop)}, with the patch at ${position(largest)}` : name;
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {Finished} finished
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function outlineLargest(context, { model, picture, heatmap }, { x, y, width }) {
  const largest = heatmap.largest();
  if (!largest) return;
  const times = width / picture.width;
  const [patchHeight, patchWidth] = model.patch;
  const place = { x: x + largest.x * times, y: y + largest.y * times };
  frame(context, { ...place, width: patchWidth * times, height: patchHeight * times }, 1.5, false);
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {number} reach
 */
function drawLegend(context, { x, y, width, height }, reach) {
  const scale = context.createLinearGradient(0, y + height, 0, y);
  SCALE.forEach((colour, i) => scale.addColorStop(i / (SCALE.length - 1), colour));
  context.fillStyle = scale;
  context.fillRect(x, y, width, height);
  const beside = x + width + 12;
  for (const [value, place, word] of /** @type {const} */ ([
    [reach, y + 18, "supports"],
    [0, y + height / 2 + 7, ""],
    [-reach, y + height - 30, "opposes"],
  ])) {
    write(context, signed(value), beside, place, `600 19px ${font()}`, INK);
    write(context, word, beside, place + 25, `18px ${font()}`, SOFT);
  }
}

/**
 * @param {OffscreenCanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} style
 * @param {string} colour
 */
function write(context, text, x, y, style, colour) {
  context.font = style;
  context.fillStyle = colour;
  context.fillText(text, x, y, WIDTH - MARGIN - x);
}

const font = () => getComputedStyle(document.body).fontFamily;

/** @param {Finished} finished @returns {Blob} */
export function scoresOf({ model, name, heatmap, unit, fillName, fill, seconds }) {
  const { rows, cols, patch, image_size, scored } = model;
  const scores = rows.map((_, row) => [...heatmap.scores.subarray(row * cols.length, (row + 1) * cols.length)]);
  const largest = heatmap.largest();
  const record = {
    model: model.name,
    krypton_onnx: model.version,
    picture: name,
    target: heatmap.target,
    label: model.labels?.[heatmap.target] ?? null,
    output: scored,
    unit,
    base_score: heatmap.baseScore,
    largest_drop: largest && { y: largest.y, x: largest.x, drop: largest.drop },
    image_size,
    patch,
    fill: { name: fillName, pixels: fill },
    rows,
    cols,
    scores, // [rows, cols]; null where the score is not a finite number
    seconds,
  };
  return new Blob([JSON.stringify(record)], { type: "application/json" });
}

/** @param {Blob} blob @param {string} name */
export function offerDownload(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
