// @ts-check
/** The ways in which a picture comes to the page: button, drop, clipboard, sample, address. */
import { UserError } from "./errors.js";
import { element } from "./page.js";

/** @typedef {{name: string, blob: Blob}} Source */

const NO_PICTURE = "There is no picture in it: choose a PNG, JPEG or WebP file.";

/**
 * @param {(source: Promise<Source>) => void} onPicture
 * @param {string[]} samples files of the exported folder
 */
export function takePictures(onPicture, samples) {
  const input = element("file", HTMLInputElement);
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => input.click());
  }
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = ""; // so that the same file can be chosen again
    if (file) onPicture(fromFile(file));
  });
  takeDrops(onPicture);
  document.addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (file) onPicture(fromFile(file));
  });
  element("samples", HTMLElement).replaceChildren(...samples.map((file) => thumbnail(file, onPicture)));
}

/** @param {(source: Promise<Source>) => void} onPicture */
function takeDrops(onPicture) {
  let depth = 0; // entering a child comes before leaving its parent
  const highlight = () => document.body.classList.toggle("dragging", depth > 0);
  document.addEventListener("dragenter", () => {
    depth += 1;
    highlight();
  });
  document.addEventListener("dragleave", () => {
    depth -= 1;
    highlight();
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    highlight();
    const file = event.dataTransfer?.files[0] ?? null;
    onPicture(file ? fromFile(file) : Promise.reject(new UserError(NO_PICTURE)));
  });
}

/** @param {DataTransfer | null} data */
function pictureIn(data) {
  return [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

/** @param {File} file @returns {Promise<Source>} */
const fromFile = async (file) => ({ name: file.name, blob: file });

/**
 * @param {string} address of this server: the page asks no other
 * @returns {Promise<Source>}
 */
export async function fromAddress(address) {
  const url = new URL(address, location.href);
  const name = decoded(url.pathname.split("/").pop() || "picture");
  if (url.origin !== location.origin) {
    throw new UserError(`The picture “${name}” lies on another server: save it and choose the file.`);
  }
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw new UserError(`The picture “${name}” cannot be read: choose another one.`);
  return { name, blob: await response.blob() };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign of its own
  }
}

/** @param {string} file @param {(source: Promise<Source>) => void} onPicture */
function thumbnail(file, onPicture) {
  const name = file.split("/").pop() ?? file;
  const address = file.split("/").map(encodeURIComponent).join("/");
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.title = name;
  button.dataset.name = name;
  button.setAttribute("aria-pressed", "false");
  image.src = address;
  image.alt = name;
  button.append(image);
  button.addEventListener("click", () => onPicture(fromAddress(address)));
  return button;
}

/** @param {string} name of the picture that is shown */
export function showName(name) {
  element("picture-name", HTMLElement).textContent = name;
  for (const button of document.querySelectorAll(/** @type {"button"} */ ("#samples button"))) {
    button.setAttribute("aria-pressed", String(button.dataset.name === name));
  }
}
