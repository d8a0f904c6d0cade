// The chosen part of a picture, upscaled by each model side by side before the whole is sent.
import { ApiError, authorization, address, refusal } from "./api.js";
import { h, setText } from "./dom.js";
import { duration, rough } from "./format.js";
import { icon } from "./icons.js";
import { t } from "./text.js";

const AT_ONCE = 2; // of the few connections that a browser opens to one server
const MOST_ZOOM = 16;
const STEP = 0.2; // of a window's side that an arrow key moves
const MOST_WHOLE = 32e6; // bytes of a picture that the browser cannot cut

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./options.js").Options} options
 * @param {import("./models.js").Model[]} models
 */
export async function showPreview(stage, options, models) {
  const picture = stage.selected;
  if (!picture) return;
  const part = (await stage.crop.cut()) ?? (picture.file.size <= MOST_WHOLE ? picture.file : null);
  if (!part) return;
  const scale = Math.min(4, Math.max(2, Math.ceil(options.enlargement(picture) - 0.01)));
  const { precision } = options.fields();
  const fields = { scale: String(scale), ...(precision && { precision }) };
  const abort = new AbortController();
  const url = URL.createObjectURL(part);
  /** @type {string[]} */
  const made = [url];
  /** @type {(() => Promise<void>)[]} */
  const waiting = [];
  const grid = h("div", { class: "preview-grid" });
  const dialog = h("dialog", { class: "large preview", "aria-labelledby": "preview-title" },
    h("div", { class: "dialog-head" },
      h("div", {}, h("h2", { id: "preview-title" }, t("preview.title")), h("p", { class: "hint" }, t("preview.text", { scale }))),
      h("div", { class: "preview-tools" },
        zoomer("view.out", "minus", () => moves.zoomBy(0.5)), zoomer("view.in", "plus", () => moves.zoomBy(2)),
        h("button", { type: "button", class: "secondary", onclick: () => dialog.close() }, t("preview.close")))),
    grid);
  const moves = movesTogether(grid);
  /** @type {Map<string, HTMLElement>} */
  const wholes = new Map();
  const { cards } = options;
  const showWholes = () => {
    for (const [name, whole] of wholes) {
      const seconds = cards.seconds.get(name);
      setText(whole, seconds === undefined ? "" : t("preview.whole", { time: rough(seconds) }));
    }
  };
  cards.addEventListener("times", showWholes);
  dialog.addEventListener("close", () => {
    cards.removeEventListener("times", showWholes);
    abort.abort();
    made.forEach((one) => URL.revokeObjectURL(one));
    dialog.remove();
  });
  if (picture.width) grid.append(card(t("preview.original"), t("preview.smooth"), url).element);
  for (const model of models) {
    const one = card(model.name, model.description, "");
    wholes.set(model.name, one.whole);
    one.element.append(h("button", {
      type: "button", class: "secondary wide", "aria-label": `${t("preview.use")}: ${model.name}`,
      onclick: () => {
        options.chooseModel(model.name);
        dialog.close();
      },
    }, t("preview.use")));
    grid.append(one.element);
    waiting.push(() => fill(one, part, model.name, fields, abort.signal, made));
  }
  showWholes();
  const work = async () => {
    for (let next = waiting.shift(); next && !abort.signal.aborted; next = waiting.shift()) await next();
  };
  for (let worker = 0; worker < AT_ONCE; worker += 1) void work();
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {"view.in" | "view.out"} text
 * @param {"plus" | "minus"} drawing
 * @param {() => void} onclick
 */
function zoomer(text, drawing, onclick) {
  return h("button", { type: "button", class: "secondary", "aria-label": t(text), title: t(text), onclick }, icon(drawing));
}

/**
 * @param {string} name
 * @param {string} text
 * @param {string} url
 */
function card(name, text, url) {
  const image = h("img", { alt: url ? name : "", draggable: false });
  if (url) image.src = url;
  const state = h("p", { class: "hint", role: "status" }, url ? "" : t("preview.busy"));
  const whole = h("p", { class: "hint" });
  const window_ = h("div", { class: `preview-window${url ? "" : " busy"}`, tabIndex: 0, role: "group", "aria-label": t("preview.window", { name }) }, image);
  const element = h("figure", { class: "preview-card" }, window_,
    h("figcaption", {}, h("strong", {}, name), h("span", { class: "hint" }, text), state, whole));
  return { element, image, state, whole, window: window_ };
}

/**
 * @param {ReturnType<typeof card>} one
 * @param {Blob} part
 * @param {string} model
 * @param {Record<string, string>} fields
 * @param {AbortSignal} signal
 * @param {string[]} made
 */
async function fill(one, part, model, fields, signal, made) {
  try {
    const response = await patient(`preview?${new URLSearchParams({ model_name: model, ...fields })}`, part, signal);
    const blob = await response.blob();
    if (signal.aborted) return;
    const url = URL.createObjectURL(blob);
    made.push(url);
    one.image.src = url;
    one.image.alt = model;
    await one.image.decode();
    const seconds = Number(response.headers.get("Upscaled-Seconds"));
    setText(one.state, seconds ? t("preview.took", { time: duration(seconds) }) : "");
  } catch (error) {
    if (signal.aborted) return;
    setText(one.state, error instanceof ApiError ? error.message : t("connection.lost"));
  }
  one.window.classList.remove("busy");
}

/**
 * Send a part; where the server has too many of them, again when it says.
 * @param {string} path
 * @param {Blob} part
 * @param {AbortSignal} signal
 * @returns {Promise<Response>}
 */
async function patient(path, part, signal) {
  for (let tries = 0; ; tries += 1) {
    const response = await fetch(address(path), {
      method: "POST", body: part, signal,
      headers: { ...authorization(), "Content-Type": part.type || "application/octet-stream" },
    });
    if (response.ok) return response;
    const error = refusal(response.status, await response.text(), response.headers.get("Retry-After"));
    if ((response.status !== 429 && response.status !== 503) || tries >= 10) throw error;
    await new Promise((resolve) => setTimeout(resolve, (error.retryAfter || 1) * 1000));
    signal.throwIfAborted();
  }
}

/**
 * Zoom and move all pictures of the grid in step.
 * @param {HTMLElement} grid
 */
function movesTogether(grid) {
  let zoom = 1;
  let x = 0;
  let y = 0;
  const apply = () => {
    const most = (zoom - 1) / 2 / zoom;
    x = Math.min(most, Math.max(-most, x));
    y = Math.min(most, Math.max(-most, y));
    grid.style.setProperty("--zoom", String(zoom));
    grid.style.setProperty("--x", `${x * 100}%`);
    grid.style.setProperty("--y", `${y * 100}%`);
    grid.classList.toggle("pixels", zoom > 3);
  };
  const zoomBy = (/** @type {number} */ factor) => {
    zoom = Math.min(MOST_ZOOM, Math.max(1, zoom * factor));
    apply();
  };
  const move = (/** @type {number} */ right, /** @type {number} */ down) => {
    x -= (STEP * right) / zoom;
    y -= (STEP * down) / zoom;
    apply();
  };
  /** @type {Record<string, () => void>} */
  const keys = {
    "+": () => zoomBy(2), "=": () => zoomBy(2), "-": () => zoomBy(0.5), 0: () => zoomBy(0),
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
  };
  grid.addEventListener("keydown", (event) => {
    const inWindow = /** @type {Element} */ (event.target).matches(".preview-window");
    if (!inWindow || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  grid.addEventListener("wheel", (event) => {
    if (!(/** @type {Element} */ (event.target).closest(".preview-window"))) return;
    event.preventDefault();
    zoomBy(2 ** (-event.deltaY / 300));
  }, { passive: false });
  grid.addEventListener("pointerdown", (event) => {
    const area = /** @type {Element} */ (event.target).closest(".preview-window");
    if (!area) return;
    area.setPointerCapture(event.pointerId);
  });
  grid.addEventListener("pointermove", (event) => {
    const area = /** @type {Element} */ (event.target).closest(".preview-window");
    if (!area?.hasPointerCapture(event.pointerId)) return;
    x += event.movementX / area.clientWidth / zoom;
    y += event.movementY / area.clientHeight / zoom;
    apply();
  });
  apply();
  return { zoomBy };
}
