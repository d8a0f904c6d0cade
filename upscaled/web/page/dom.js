// Small helpers to build elements. Text is always set as text, never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * The element with an id of index.html.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no #${id}`);
  return found;
}

/**
 * Make an element: properties by name, `on…` as listeners, `aria-…` and `data-…` as attributes.
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else /** @type {any} */ (element)[name] = value;
  }
  element.append(.../** @type {any[]} */ (children.filter((child) => child !== null && child !== undefined && child !== false)));
  return element;
}

/**
 * Make a drawing of 24×24 units from path data.
 * @param {string} path
 */
export function drawing(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/**
 * Set the text of an element if it changed, so that screen readers and layout stay calm.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Call `work` once, `milliseconds` after the last of several calls.
 * @param {() => unknown} work
 * @param {number} milliseconds
 */
export function debounced(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

/**
 * A function that does its work at once, but at most once in some time; what is asked for meanwhile
 * is done at its end.
 * @param {() => void} work
 * @param {number} milliseconds
 */
export function throttled(work, milliseconds) {
  let timer = 0;
  let next = 0;
  return () => {
    clearTimeout(timer);
    const run = () => {
      next = Date.now() + milliseconds;
      work();
    };
    const wait = next - Date.now();
    if (wait <= 0 || wait > milliseconds) run(); // more: the clock was set back
    else timer = setTimeout(run, wait);
  };
}

/**
 * Close a dialog by its own means: Escape, its close button, a click beside it.
 * @param {HTMLDialogElement} dialog
 */
export function closesOnBackdrop(dialog) {
  dialog.addEventListener("pointerdown", (event) => {
    const { left, top, right, bottom } = dialog.getBoundingClientRect();
    const inside = event.clientX >= left && event.clientX <= right && event.clientY >= top && event.clientY <= bottom;
    if (event.target === dialog && !inside) dialog.close();
  });
}
