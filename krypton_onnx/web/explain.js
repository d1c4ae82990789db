// @ts-check
/** One question about one picture: the model's own answer, and the heatmap part by part. */
import { Heatmap } from "./heatmap.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./pictures.js").Picture} Picture */
/** @typedef {import("./pool.js").Pool} Pool */

/** Parts beyond the batches are empty, so that the last of very many holds the base run alone. */
const NO_BATCH = /** @type {[number, number]} */ ([999_999, 1_000_000]);

/** Each part repeats the base run: enough of them to see progress, and no more. */
const MOST_PARTS = 16;

/**
 * @param {Pool} pool
 * @param {Model} model
 * @param {Picture} picture
 * @param {AbortSignal} signal
 * @returns {Promise<{values: Float32Array, top: number}>} the scored output, flattened, and the index of its largest
 */
export async function predict(pool, model, picture, signal) {
  const fill = new Array(picture.channels).fill(0);
  const question = { ...pictureOf(picture), target: -1, fill, part: NO_BATCH, scored: model.scored };
  const { values, target } = await pool.ask(question, signal);
  return { values: /** @type {Float32Array} */ (values), top: target };
}

/**
 * @param {Pool} pool
 * @param {Model} model
 * @param {Picture} picture
 * @param {{target: number, baseScore: number, fill: number[]}} question
 * @param {AbortSignal} signal
 * @param {(heatmap: Heatmap, done: number, parts: number) => void} onPart
 * @returns {Promise<Heatmap>}
 */
export async function explain(pool, model, picture, { target, baseScore, fill }, signal, onPart) {
  const heatmap = new Heatmap(model, target, baseScore);
  const parts = Math.min(model.batches, MOST_PARTS);
  let done = 0;
  onPart(heatmap, done, parts);
  const asked = Array.from({ length: parts }, async (_, i) => {
    const part = /** @type {[number, number]} */ ([i, parts]);
    const answer = await pool.ask({ ...pictureOf(picture), target, fill, part, scored: null }, signal);
    heatmap.baseScore = answer.baseScore;
    heatmap.merge(answer.heatmap);
    done += 1;
    onPart(heatmap, done, parts);
  });
  await Promise.all(asked);
  heatmap.finish();
  return heatmap;
}

/** @param {Picture} picture */
const pictureOf = ({ pixels, height, width, channels }) => ({ pixels, shape: [height, width, channels] });
