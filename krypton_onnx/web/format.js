// @ts-check
/** Numbers as people read them. */

/** Three significant digits, a proper minus, no exponent where it can be helped. @param {number} value */
export function number(value) {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return dashed(value.toExponential(1));
  if (size >= 1e6) return dashed(value.toExponential(2));
  const decimals = size === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(size)));
  return dashed(value.toFixed(Math.min(decimals, size < 0.1 ? 4 : 3)));
}

/** @param {number} value with its sign */
export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

/** @param {string} text */
const dashed = (text) => text.replaceAll("-", "−");

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** @param {number} seconds of a guess, which deserves no decimals */
export function remaining(seconds) {
  return seconds < 10 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${duration(seconds)}`;
}

/** @param {number} bytes @returns {string} in megabytes */
export const megabytes = (bytes) => (bytes / 1e6).toFixed(0);

/** @param {import("./heatmap.js").Place} place */
export const position = ({ y, x }) => `row ${y}, column ${x}`;
