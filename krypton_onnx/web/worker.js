// @ts-check
/**
 * A module worker with a session of its own. It answers one message at a time: first the files, then questions.
 * An int64 tensor is a BigInt64Array here, and every input has to be given.
 */
// @ts-ignore: the runtime lies beside this file only in an exported folder
import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

/**
 * @typedef {object} Question
 * @property {Uint8Array} pixels [height, width, channels]
 * @property {number[]} shape (height, width, channels)
 * @property {number} target -1 for the top class
 * @property {number[]} fill per channel, in pixels
 * @property {[number, number]} part (i, n)
 * @property {string | null} scored name of an output to send along
 */

/**
 * @typedef {object} Answer
 * @property {Float32Array} heatmap [rows, cols], NaN where another part has it
 * @property {number} baseScore
 * @property {number} target
 * @property {Float32Array | null} values of the output `scored`
 */

/** @type {any} */
let session;

/** @param {{data: {model: ArrayBuffer, runtime: ArrayBuffer} | Question}} message */
self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ answer: "model" in data ? await start(data.model, data.runtime) : await answer(data) });
  } catch (error) {
    self.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
};

/** @param {ArrayBuffer} model @param {ArrayBuffer} runtime */
async function start(model, runtime) {
  ort.env.wasm.numThreads = 1; // more needs headers that a plain file server does not send; the pool is the parallelism
  ort.env.wasm.wasmBinary = runtime;
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  return null;
}

/** @param {Question} question @returns {Promise<Answer>} */
async function answer({ pixels, shape, target, fill, part, scored }) {
  const feeds = {
    image: new ort.Tensor("uint8", pixels, [1, ...shape]),
    target: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
    fill: new ort.Tensor("float32", Float32Array.from(fill), [fill.length]),
    part: new ort.Tensor("int64", BigInt64Array.from(part, BigInt), [2]),
  };
  const wanted = ["heatmap", "base_score", "target_index", ...(scored === null ? [] : [scored])];
  const found = await session.run(feeds, wanted);
  return {
    heatmap: found.heatmap.data,
    baseScore: found.base_score.data[0],
    target: Number(found.target_index.data[0]),
    values: scored === null ? null : asFloats(found[scored]),
  };
}

/** @param {{type: string, data: ArrayLike<number | bigint>}} tensor @returns {Float32Array} */
function asFloats({ type, data }) {
  const half = type === "float16" && data instanceof Uint16Array; // bits, where the browser has no Float16Array
  return Float32Array.from(/** @type {ArrayLike<any>} */ (data), half ? halfToNumber : Number);
}

/** @param {number} bits */
function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
