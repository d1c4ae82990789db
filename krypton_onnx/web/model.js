// @ts-check
/** The exported folder: what krypton_onnx.page.json says, and its two large files. */
import { UserError } from "./errors.js";

/**
 * @typedef {object} Model
 * @property {string} file
 * @property {number} bytes
 * @property {string} name
 * @property {[number, number]} image_size (height, width)
 * @property {1 | 3} channels
 * @property {[number, number]} patch (height, width)
 * @property {number[]} rows y of the grid's patches
 * @property {number[]} cols x of the grid's patches
 * @property {number} batches
 * @property {string} scored name of the output whose values are scores
 * @property {number} classes
 * @property {string[] | null} labels
 * @property {{resize: number | [number, number] | null, crop: [number, number] | null,
 *   resample: import("./resample.js").Filter, channel_order: string}} preprocess
 * @property {string} version
 * @property {string[]} samples
 */

export const RUNTIME = "runtime/ort-wasm-simd-threaded.wasm";
const INCOMPLETE = "export the folder again with “krypton-onnx export-web”.";

/** @returns {Promise<Model>} */
export async function loadModel() {
  const response = await get("krypton_onnx.page.json");
  try {
    return await response.json();
  } catch {
    throw new UserError(`The file krypton_onnx.page.json is damaged: ${INCOMPLETE}`);
  }
}

/**
 * The label of a class, or its number.
 * @param {Model} model
 * @param {number} index
 */
export const className = (model, index) => model.labels?.[index] ?? `class ${index}`;

/**
 * @param {string} file
 * @param {number | null} size in bytes, if known
 * @param {(received: number, total: number) => void} onProgress
 * @returns {Promise<ArrayBuffer>}
 */
export async function download(file, size, onProgress) {
  const response = await get(file);
  const encoded = response.headers.has("Content-Encoding"); // then the length is not the file's
  const expected = size ?? (encoded ? 0 : Number(response.headers.get("Content-Length") ?? 0));
  let bytes = new Uint8Array(expected);
  let received = 0;
  onProgress(0, expected);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (let chunk = await next(reader, file); chunk; chunk = await next(reader, file)) {
    if (received + chunk.length > bytes.length) bytes = grown(bytes, received + chunk.length);
    bytes.set(chunk, received);
    received += chunk.length;
    onProgress(received, Math.max(expected, received));
  }
  if (size !== null && received !== size) {
    throw new UserError(`The file ${file} has ${received} bytes where krypton_onnx.page.json says ${size}: ${INCOMPLETE}`);
  }
  return received === bytes.length ? bytes.buffer : bytes.slice(0, received).buffer;
}

/** @param {string} file */
async function get(file) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(file);
  } catch {
    throw new UserError(`The file ${file} cannot be read: check that the web server still runs, and reload the page.`);
  }
  if (!response.ok) throw new UserError(`The file ${file} is missing (${response.status}): ${INCOMPLETE}`);
  return response;
}

/**
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @param {string} file
 */
async function next(reader, file) {
  try {
    return (await reader.read()).value;
  } catch {
    throw new UserError(`The download of ${file} broke off: reload the page to try again.`);
  }
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {number} length */
function grown(bytes, length) {
  const larger = new Uint8Array(Math.max(length, 2 * bytes.length));
  larger.set(bytes);
  return larger;
}
