// @ts-check
/** Something the user can act on: the message is one sentence for the page, and says what to do. */
export class UserError extends Error {}

/** What engines say when a page may have no more memory; none of them has an error type for it. */
const NO_MEMORY = /out of memory|memory access|bad_alloc|allocation failed|array buffer allocation|failed to allocate/i;

/**
 * @param {unknown} error
 * @returns {string} one sentence for the page
 */
export function sentence(error) {
  if (error instanceof UserError) return error.message;
  const text = error instanceof Error ? error.message : String(error);
  if (NO_MEMORY.test(text)) {
    return "The browser has too little memory for this model: close other tabs or use a computer with more memory.";
  }
  return `Something went wrong: ${text.replace(/\s+/g, " ").slice(0, 200)}. Reload the page to start again.`;
}

/** @param {unknown} error whether it only says that something newer took over */
export const isAbort = (error) => error instanceof Error && error.name === "AbortError";
