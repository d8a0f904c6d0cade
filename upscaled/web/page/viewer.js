// Before and after, to the single pixel: slider, side by side, blink, difference.
import { ConnectionError, json } from "./api.js";
import { h, setText } from "./dom.js";
import { dimensions, fileSize, percent } from "./format.js";
import { icon } from "./icons.js";
import { Panning } from "./panning.js";
import { Pyramid, TileCache } from "./pyramid.js";
import { nameOf } from "./row.js";
import { t } from "./text.js";

const MODES = ["slider", "side", "blink", "difference"];
const BLINK = 800; // milliseconds
const MOST_PIXEL = 32; // canvas pixels for a pixel of the result

/**
 * @param {import("./jobs.js").Job} job
 * @param {import("./limits.js").Limits} limits
 * @param {() => Promise<boolean>} save saves the result, if the server lets it
 */
export async function showViewer(job, limits, save) {
  const shape = await json(`tiles/${job.job_id}`);
  await loadStyle();
  const viewer = new Viewer(job, shape, limits, save);
  document.body.append(viewer.dialog);
  viewer.dialog.showModal();
  viewer.begin();
}

/** @returns {Promise<void>} */
function loadStyle() {
  return new Promise((resolve, reject) => {
    if (document.getElementById("viewer-style")) return resolve();
    const link = h("link", { id: "viewer-style", rel: "stylesheet", href: `${document.documentElement.dataset.assets}/viewer.css` });
    link.onload = () => resolve();
    link.onerror = () => {
      link.remove();
      reject(new ConnectionError());
    };
    document.head.append(link);
  });
}

/**
 * @param {CanvasRenderingContext2D} context
 * @returns {CanvasPattern}
 */
function checkerboard(context) {
  const square = document.createElement("canvas");
  const side = Math.round(12 * (devicePixelRatio || 1));
  square.width = square.height = 2 * side;
  const paint = /** @type {CanvasRenderingContext2D} */ (square.getContext("2d"));
  const style = getComputedStyle(document.documentElement);
  paint.fillStyle = style.getPropertyValue("--surface");
  paint.fillRect(0, 0, 2 * side, 2 * side);
  paint.fillStyle = style.getPropertyValue("--check");
  paint.fillRect(0, 0, side, side);
  paint.fillRect(side, side, side, side);
  return /** @type {CanvasPattern} */ (context.createPattern(square, "repeat"));
}

class Viewer {
  /**
   * @param {import("./jobs.js").Job} job
   * @param {{tile_size: number, source: any, result: any}} shape
   * @param {import("./limits.js").Limits} limits
   * @param {() => Promise<boolean>} save saves the result, if the server lets it
   */
  constructor(job, shape, limits, save) {
    this.job = job;
    this.save = save;
    this.cache = new TileCache(() => this.redraw(), () => this.#tell());
    const path = `tiles/${job.job_id}`;
    this.result = new Pyramid(this.cache, `${path}/result`, shape.result, shape.tile_size);
    this.source = shape.source ? new Pyramid(this.cache, `${path}/source`, shape.source, shape.tile_size) : null;
    this.mode = this.source ? "slider" : "result";
    this.split = 0.5;
    this.shown = "result"; // of blink
    this.scheduled = false;
    /** @type {CanvasPattern | null} */
    this.board = null;
    /** @type {HTMLCanvasElement | null} */
    this.scratch = null;
    /** @type {number | undefined} */
    this.blinking = undefined;
    this.canvas = h("canvas", { class: "board", tabIndex: 0, role: "img", "aria-label": t("view.canvas") });
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this.zoomText = h("output", { class: "zoom" });
    this.panning = new Panning(this.canvas, () => this.redraw(), MOST_PIXEL);
    this.panning.hold = (x) => this.#hold(x);
    this.#build(limits);
  }

  begin() {
    this.panning.setPicture(this.result.side.width, this.result.side.height);
    new ResizeObserver(() => this.#resize()).observe(this.canvas);
    this.#resize();
    this.panning.fit();
    this.canvas.focus();
  }

  /** @param {import("./limits.js").Limits} limits */
  #build(limits) {
    const mode = (/** @type {string} */ name) => h("label", {},
      h("input", { type: "radio", name: "view", value: name, checked: name === this.mode, onchange: () => this.setMode(name) }),
      h("span", {}, t(`view.${name}`)));
    const button = (/** @type {string} */ text, /** @type {() => void} */ onclick, /** @type {any} */ drawn = text) =>
      h("button", { type: "button", class: "secondary", "aria-label": text, title: text, onclick }, drawn);
    this.range = h("input", {
      type: "range", class: "split", min: 0, max: 1000, step: 1, value: 500, "aria-label": t("view.split"),
      oninput: () => this.setSplit(this.range.valueAsNumber / 1000),
    });
    this.line = h("div", { class: "split-line", "aria-hidden": "true" });
    this.before = h("span", { class: "tag before", "aria-hidden": "true" }, t("view.before"));
    this.after = h("span", { class: "tag after", "aria-hidden": "true" }, t("view.after"));
    this.note = h("p", { class: "hint view-note", role: "status" }, this.source ? "" : t("view.alone"));
    this.slide = h("div", { class: "slide" },
      h("button", { type: "button", class: "secondary", onclick: () => this.only("source") }, t("view.before")),
      this.range,
      h("button", { type: "button", class: "secondary", onclick: () => this.only("result") }, t("view.after")));
    this.slide.hidden = !this.source;
    const { job } = this;
    const size = job.input_size && job.output_size ? `${dimensions(job.input_size)} → ${dimensions(job.output_size)}` : "";
    this.dialog = h("dialog", { class: "viewer", "aria-label": t("view.title", { name: nameOf(job) }), onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) },
      h("div", { class: "view-head" },
        h("div", { class: "view-name" }, h("h2", {}, nameOf(job)), h("p", { class: "hint" }, [size, fileSize(job.file_size_bytes ?? 0), job.model_name].filter(Boolean).join(" · "))),
        this.source && h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, t("view.mode")), ...MODES.map(mode)),
        h("div", { class: "view-tools" },
          h("button", { type: "button", class: "primary", "aria-label": t("action.save"), onclick: () => void this.#save(limits) }, icon("download"), h("span", {}, t("action.save"))),
          button(t("view.close"), () => this.dialog.close(), icon("cancel")))),
      h("div", { class: "stage-area" }, this.canvas, this.line, this.before, this.after,
        h("div", { class: "zoomers" }, button(t("view.out"), () => this.panning.zoomBy(0.5), icon("minus")), this.zoomText,
          button(t("view.in"), () => this.panning.zoomBy(2), icon("plus")), button(t("view.fit"), () => this.panning.fit()),
          button(t("view.pixels"), () => this.panning.pixels()))),
      h("div", { class: "view-foot" }, this.slide, this.note));
    this.dialog.addEventListener("close", () => {
      clearInterval(this.blinking);
      this.cache.close();
      this.dialog.remove();
    });
  }

  /** @param {import("./limits.js").Limits} limits */
  async #save(limits) {
    const saved = await this.save();
    // Its tiles go with the result.
    if (saved && limits.delete_after_download) this.dialog.close();
  }

  /** @param {string} mode */
  setMode(mode) {
    this.mode = mode;
    clearInterval(this.blinking);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (mode === "blink" && !calm) this.blinking = setInterval(() => this.flip(), BLINK);
    this.#tell();
    this.range.disabled = mode !== "slider";
    this.panning.resized(mode === "side");
    this.redraw();
  }

  /** Say what there is to say about the view. */
  #tell() {
    setText(this.note, this.cache.refused || (!this.source ? t("view.alone") : this.mode === "difference" ? t("view.amplified") : ""));
  }

  /** Show the other side, in blink. */
  flip() {
    this.shown = this.shown === "result" ? "source" : "result";
    this.redraw();
  }

  /** @param {number} split 0: all after, 1: all before */
  setSplit(split) {
    this.split = split;
    this.range.value = String(Math.round(split * 1000));
    this.redraw();
  }

  /**
   * Show one side alone.
   * @param {"source" | "result"} side
   */
  only(side) {
    if (this.mode === "blink") {
      clearInterval(this.blinking);
      this.shown = side;
      this.redraw();
      return;
    }
    this.dialog.querySelector("input[value=slider]")?.click();
    this.setSplit(side === "source" ? 1 : 0);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const inField = event.target instanceof HTMLInputElement;
    const canvas = event.target === this.canvas;
    if (event.key === " " && canvas) {
      if (this.mode === "blink") this.flip();
      else if (this.source) this.only(this.split < 0.5 ? "source" : "result");
    } else if (!inField && this.panning.key(event, canvas)) { /* done */ } else return;
    event.preventDefault();
  }

  /**
   * Whether a press at x takes hold of the slider's line.
   * @param {number} x part of the canvas' width
   * @returns {((x: number) => void) | null}
   */
  #hold(x) {
    const near = Math.abs(x - this.split) * this.canvas.clientWidth < 24;
    return this.mode === "slider" && near ? (at) => this.setSplit(Math.min(1, Math.max(0, at))) : null;
  }

  #resize() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.panning.resized(this.mode === "side");
    this.#draw();
  }

  redraw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      if (this.dialog.open) this.#draw();
    });
  }

  #draw() {
    const { width, height } = this.canvas;
    const context = this.context;
    context.clearRect(0, 0, width, height);
    this.cache.begin();
    const whole = { x: 0, y: 0, width, height };
    const cut = Math.round(width * this.split);
    const half = Math.round(width / 2);
    if (!this.source || this.mode === "result") this.#side(this.result, whole, 0);
    else if (this.mode === "slider") {
      this.#side(this.result, { x: cut, y: 0, width: width - cut, height }, 0);
      this.#side(this.source, { x: 0, y: 0, width: cut, height }, 0);
    } else if (this.mode === "side") {
      this.#side(this.source, { x: 0, y: 0, width: half, height }, -width / 4);
      this.#side(this.result, { x: half, y: 0, width: width - half, height }, width / 4);
    } else if (this.mode === "blink") {
      this.#side(this.shown === "result" ? this.result : this.source, whole, 0);
    } else this.#difference(whole);
    this.cache.end();
    const { busy } = this.cache;
    this.canvas.setAttribute("aria-busy", String(busy));
    if (this.mode !== "difference") this.#beneath(busy);
    this.#marks(cut, half);
    setText(this.zoomText, percent(this.panning.zoom));
  }

  /**
   * @param {Pyramid} pyramid
   * @param {{x: number, y: number, width: number, height: number}} clip
   * @param {number} shift of the picture to the right
   * @param {CanvasRenderingContext2D} [context]
   */
  #side(pyramid, clip, shift, context = this.context) {
    if (clip.width <= 0) return;
    const ratio = this.result.side.width / pyramid.side.width;
    const { zoom } = this.panning;
    const place = this.panning.place(shift);
    context.save();
    context.beginPath();
    context.rect(clip.x, clip.y, clip.width, clip.height);
    context.clip();
    // Single pixels show as squares; below that the source is enlarged smoothly, as viewers do.
    context.imageSmoothingEnabled = zoom < 3;
    context.imageSmoothingQuality = "high";
    pyramid.draw(context, { x: place.x, y: place.y, scale: zoom * ratio }, clip);
    context.restore();
  }

  /**
   * Show transparent parts on a checkerboard, which lies still while the picture moves.
   * @param {boolean} busy whether tiles are missing, so that a plain colour stands for them
   */
  #beneath(busy) {
    this.board ??= checkerboard(this.context);
    const { width, height } = this.result.side;
    const { zoom } = this.panning;
    this.context.globalCompositeOperation = "destination-over";
    this.context.fillStyle = busy ? "#80808033" : this.board;
    const shifts = this.mode === "side" ? [-this.canvas.width / 4, this.canvas.width / 4] : [0];
    for (const shift of shifts) {
      const { x, y } = this.panning.place(shift);
      this.context.fillRect(x, y, width * zoom, height * zoom);
    }
    this.context.globalCompositeOperation = "source-over";
  }

  /** @param {{x: number, y: number, width: number, height: number}} whole */
  #difference(whole) {
    const other = (this.scratch ??= document.createElement("canvas"));
    other.width = whole.width;
    other.height = whole.height;
    const context = /** @type {CanvasRenderingContext2D} */ (other.getContext("2d"));
    this.#side(/** @type {Pyramid} */ (this.source), whole, 0, context);
    this.#side(this.result, whole, 0);
    this.context.globalCompositeOperation = "difference";
    this.context.drawImage(other, 0, 0);
    this.context.globalCompositeOperation = "lighter";
    for (let doubling = 0; doubling < 2; doubling += 1) this.context.drawImage(this.canvas, 0, 0);
    this.context.globalCompositeOperation = "source-over";
  }

  /**
   * @param {number} cut
   * @param {number} half
   */
  #marks(cut, half) {
    const { width } = this.canvas;
    const sides = this.mode === "slider" || this.mode === "side";
    const at = this.mode === "slider" ? cut : half;
    this.line.hidden = !sides || !this.source;
    this.line.classList.toggle("handle", this.mode === "slider");
    this.line.style.left = `${(100 * at) / width}%`;
    this.before.hidden = !(this.source && ((sides && at > width * 0.08) || (this.mode === "blink" && this.shown === "source")));
    this.after.hidden = !((sides && at < width * 0.92) || (this.mode === "blink" && this.shown === "result"));
  }
}
