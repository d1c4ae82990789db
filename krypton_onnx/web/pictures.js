// @ts-check
/** From a picture file to the pixels that the model sees, as krypton_onnx/preprocess.py makes them. */
import { UserError } from "./errors.js";
import { columnsFirst, resampleColumns, resampleRows, resampleTable } from "./resample.js";

/** @typedef {import("./model.js").Model} Model */

/**
 * @typedef {object} Picture
 * @property {Uint8Array} pixels [height, width, channels]
 * @property {number} height
 * @property {number} width
 * @property {1 | 3} channels grey, or red, green, blue
 */

const MAX_SIDE = 32768;
/** Pixels that are read from a bitmap at a time: a whole photograph would pass what phones allow a canvas. */
const STRIP_PIXELS = 4e6;

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<ImageBitmap>} upright, with the levels that the file holds
 */
export async function decode(file, name) {
  try {
    return await createImageBitmap(file, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new UserError(`This browser cannot read “${name}” as a picture: choose a PNG, JPEG or WebP file.`);
  }
}

/**
 * @param {ImageBitmap} bitmap
 * @param {Model} model
 * @returns {Promise<Picture>}
 */
export async function prepare(bitmap, model) {
  const channels = model.channels;
  const { resize, crop, resample } = model.preprocess;
  const size = resizedTo(bitmap, resize);
  const pixels = await resized(bitmap, size, channels, resample);
  const picture = crop
    ? centreCrop(pixels, size, crop, channels)
    : { pixels, height: size[0], width: size[1], channels };
  const [height, width] = model.image_size;
  if (picture.height !== height || picture.width !== width) {
    throw new UserError(
      `The model takes pictures of exactly ${width} × ${height} pixels, and this one has ${picture.width} × ` +
        `${picture.height}: choose one of that size.`,
    );
  }
  return picture;
}

/**
 * @param {ImageBitmap} bitmap
 * @param {Model["preprocess"]["resize"]} resize
 * @returns {[number, number]} (height, width); the longer side is rounded down
 */
function resizedTo({ height, width }, resize) {
  if (resize === null) return [height, width];
  if (Array.isArray(resize)) return resize;
  const longer = Math.floor((resize * Math.max(height, width)) / Math.min(height, width));
  if (longer > MAX_SIDE) {
    throw new UserError(`This picture of ${width} × ${height} pixels is too narrow: crop it first.`);
  }
  return height <= width ? [resize, longer] : [longer, resize];
}

/**
 * The resize, with its first pass strip by strip, so that a large photograph is never held in full.
 * @param {ImageBitmap} bitmap
 * @param {[number, number]} size (height, width) after
 * @param {1 | 3} channels
 * @param {import("./resample.js").Filter} filter
 * @returns {Promise<Uint8Array>}
 */
async function resized(bitmap, size, channels, filter) {
  const { height, width } = bitmap;
  const [toHeight, toWidth] = size;
  const alongRows = resampleTable(width, toWidth, filter);
  const alongColumns = resampleTable(height, toHeight, filter);
  if (!columnsFirst([height, width], size)) {
    const mixed = new Uint8Array(height * toWidth * channels);
    const step = Math.max(1, Math.floor(STRIP_PIXELS / width));
    for (let y = 0; y < height; y += step) {
      const rows = Math.min(step, height - y);
      const strip = await readPixels(bitmap, { x: 0, y, width, height: rows }, channels);
      mixed.set(resampleRows(strip, rows, width, channels, alongRows), y * toWidth * channels);
    }
    return resampleColumns(mixed, height, toWidth, channels, alongColumns);
  }
  const mixed = new Uint8Array(toHeight * width * channels);
  const step = Math.max(1, Math.floor(STRIP_PIXELS / height));
  for (let x = 0; x < width; x += step) {
    const columns = Math.min(step, width - x);
    const strip = await readPixels(bitmap, { x, y: 0, width: columns, height }, channels);
    const part = resampleColumns(strip, height, columns, channels, alongColumns);
    for (let row = 0; row < toHeight; row++) {
      const from = row * columns * channels;
      mixed.set(part.subarray(from, from + columns * channels), (row * width + x) * channels);
    }
  }
  return resampleRows(mixed, toHeight, width, channels, alongRows);
}

/**
 * @param {ImageBitmap} bitmap
 * @param {{x: number, y: number, width: number, height: number}} part
 * @param {1 | 3} channels
 * @returns {Promise<Uint8Array>} [height, width, channels], transparency laid on white
 */
async function readPixels(bitmap, { x, y, width, height }, channels) {
  await new Promise((resolve) => setTimeout(resolve)); // lets the page draw between the strips of a large photograph
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new UserError("This browser cannot hold a picture of this size: choose a smaller one.");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, x, y, width, height, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [red, green, blue] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (channels === 1) {
      pixels[to++] = luma(red, green, blue);
    } else {
      pixels[to++] = red;
      pixels[to++] = green;
      pixels[to++] = blue;
    }
  }
  return pixels;
}

/** ITU-R 601 in Pillow's fixed point. @param {number} red @param {number} green @param {number} blue */
export const luma = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;

/**
 * @param {Uint8Array} pixels
 * @param {[number, number]} size (height, width)
 * @param {[number, number]} crop
 * @param {1 | 3} channels
 * @returns {Picture}
 */
function centreCrop(pixels, [height, width], [toHeight, toWidth], channels) {
  if (height < toHeight || width < toWidth) {
    throw new UserError(
      `This picture has ${width} × ${height} pixels, and the model cuts ${toWidth} × ${toHeight} from it: choose a ` +
        "larger one.",
    );
  }
  const top = Math.floor((height - toHeight) / 2);
  const left = Math.floor((width - toWidth) / 2);
  const cut = new Uint8Array(toHeight * toWidth * channels);
  for (let row = 0; row < toHeight; row++) {
    const from = ((top + row) * width + left) * channels;
    cut.set(pixels.subarray(from, from + toWidth * channels), row * toWidth * channels);
  }
  return { pixels: cut, height: toHeight, width: toWidth, channels };
}

/**
 * @param {Picture} picture
 * @returns {number[]} per channel
 */
export function meanColour({ pixels, channels }) {
  const sums = new Array(channels).fill(0);
  for (let i = 0; i < pixels.length; i++) sums[i % channels] += pixels[i];
  return sums.map((sum) => (sum * channels) / pixels.length);
}
