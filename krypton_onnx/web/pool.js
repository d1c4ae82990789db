// @ts-check
/** Workers that share a queue of questions. */
import { UserError } from "./errors.js";

/** @typedef {import("./worker.js").Question} Question */
/** @typedef {import("./worker.js").Answer} Answer */
/** @typedef {{question: Question, signal: AbortSignal, resolve: (answer: Answer) => void, reject: (error: unknown) => void}} Job */

/** Every worker holds the model and its arena: beyond this size one has to do. */
const ONE_WORKER_BYTES = 100e6;

/** @param {number} bytes of the model */
export const workersFor = (bytes) => (bytes > ONE_WORKER_BYTES ? 1 : Math.min(4, navigator.hardwareConcurrency || 1));

export class Pool {
  /** @type {Job[]} */
  #queue = [];
  /** @type {Worker[]} */
  #idle = [];
  #starting = 0;
  #working = 0;

  /**
   * Starts the workers; the promise is kept when the first of them is ready, and the others join as they come.
   * @param {number} count
   * @param {ArrayBuffer} model
   * @param {ArrayBuffer} runtime
   * @returns {Promise<Pool>}
   */
  static async start(count, model, runtime) {
    const pool = new Pool();
    pool.#starting = count;
    const started = Array.from({ length: count }, (_, i) => pool.#add(model, runtime, i === count - 1));
    try {
      await Promise.any(started);
    } catch (error) {
      throw startError(/** @type {AggregateError} */ (error).errors[0]);
    }
    return pool;
  }

  /**
   * Asks the next worker that is free. A question whose signal is aborted before that is dropped.
   * @param {Question} question
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  ask(question, signal) {
    return new Promise((resolve, reject) => {
      this.#queue.push({ question, signal, resolve, reject });
      this.#next();
    });
  }

  /**
   * @param {ArrayBuffer} model
   * @param {ArrayBuffer} runtime
   * @param {boolean} last whether the buffers may be given away, which spares a copy of the model
   */
  async #add(model, runtime, last) {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    try {
      await exchange(worker, { model, runtime }, last ? [model, runtime] : []);
    } catch (error) {
      worker.terminate();
      throw error;
    } finally {
      this.#starting -= 1;
    }
    this.#idle.push(worker);
    this.#next();
  }

  #next() {
    for (const { signal, reject } of this.#queue) if (signal.aborted) reject(signal.reason);
    this.#queue = this.#queue.filter(({ signal }) => !signal.aborted);
    while (this.#queue.length && this.#idle.length) {
      void this.#work(/** @type {Worker} */ (this.#idle.pop()), /** @type {Job} */ (this.#queue.shift()));
    }
    if (this.#queue.length && this.#starting + this.#working === 0) {
      for (const { reject } of this.#queue.splice(0)) reject(new UserError("The model stopped: reload the page."));
    }
  }

  /** @param {Worker} worker @param {Job} job */
  async #work(worker, { question, signal, resolve, reject }) {
    this.#working += 1;
    try {
      const answer = await exchange(worker, question, []);
      if (signal.aborted) reject(signal.reason);
      else resolve(answer);
      this.#idle.push(worker);
    } catch (error) {
      // what ran out of memory once can be relied on no longer, and others may then have enough
      worker.terminate();
      reject(error);
    }
    this.#working -= 1;
    this.#next();
  }
}

/**
 * One message there and one back.
 * @param {Worker} worker
 * @param {object} message
 * @param {Transferable[]} transfer
 * @returns {Promise<any>}
 */
function exchange(worker, message, transfer) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.answer));
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message || "a file of the folder runtime is missing or damaged"));
    };
    worker.postMessage(message, transfer);
  });
}

/** @param {Error} error */
function startError(error) {
  if (/memory|alloc/i.test(error.message)) return error;
  const reason = error.message.replace(/\s+/g, " ").slice(0, 160);
  return new UserError(`This browser cannot start the model (${reason}): use a recent browser, or export it again.`);
}
