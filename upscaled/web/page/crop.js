// The picture on the stage, and the frame in it that chooses what the models are compared on.
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { secondsOf } from "./models.js";
import { t } from "./text.js";

/** @typedef {{x: number, y: number, width: number, height: number}} Box in pixels of the picture */

const SMALLEST = 16;
const SECONDS = 4; // that the slowest model may take for the part that is framed at first
const LEAST = 64; // width and height of that part, where models are slow …
const MOST = 256; // … and where they are quick

export class CropFrame {
  /** @param {number} mostPixels that a crop may have; 0: there are no previews */
  constructor(mostPixels) {
    this.mostPixels = mostPixels;
    this.side = LEAST;
    /** @type {import("./stage.js").Picture | null} */
    this.picture = null;
    /** @type {Box} */
    this.box = { x: 0, y: 0, width: 0, height: 0 };
    this.image = h("img", { alt: "", draggable: false });
    this.frame = h("div", { class: "crop-frame", tabIndex: 0, role: "group", onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) });
    this.holder = h("div", { class: "crop-holder" }, this.image, this.frame);
    this.unreadable = h("div", { class: "unreadable" }, icon("picture"), h("p"));
    this.element = h("div", { class: "crop" }, this.holder, this.unreadable);
    this.#listen();
  }

  /**
   * Let the first frame be so large that no model takes long for it here.
   * @param {import("./models.js").Model[]} models
   */
  fitSpeed(models) {
    const slowest = Math.max(0, ...models.map((model) => secondsOf(model, 4, 1e6, false) ?? 0)); // for a megapixel
    this.side = slowest ? Math.round(Math.min(MOST, Math.max(LEAST, Math.sqrt((SECONDS / slowest) * 1e6)))) : LEAST;
  }

  /** @param {import("./stage.js").Picture | null} picture */
  show(picture) {
    this.picture = picture;
    const readable = Boolean(picture?.width && picture.url);
    this.holder.hidden = !readable;
    this.unreadable.hidden = readable;
    if (!picture) {
      this.image.removeAttribute("src");
      return;
    }
    this.unreadable.lastChild.textContent = picture.file.name;
    if (!readable) return;
    this.image.src = picture.url;
    this.image.alt = picture.file.name;
    this.image.width = picture.width;
    this.image.height = picture.height;
    this.frame.setAttribute("aria-label", t("crop.label"));
    this.frame.hidden = !this.mostPixels;
    const side = Math.min(this.side, Math.floor(Math.sqrt(this.mostPixels)));
    this.#set({ x: (picture.width - side) / 2, y: (picture.height - side) / 2, width: side, height: side });
  }

  /**
   * The chosen part as a PNG; null where the browser cannot read the picture.
   * @returns {Promise<Blob | null>}
   */
  async cut() {
    if (!this.picture?.width) return null;
    const { x, y, width, height } = this.box;
    if (this.picture.large) return (await import("./large.js")).partOf(this.picture.file, this.box);
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d")?.drawImage(this.image, x, y, width, height, 0, 0, width, height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** @param {Box} box */
  #set({ x, y, width, height }) {
    const picture = /** @type {import("./stage.js").Picture} */ (this.picture);
    width = Math.min(picture.width, Math.max(SMALLEST, Math.round(width)));
    height = Math.min(picture.height, Math.max(SMALLEST, Math.round(height)));
    const shrink = Math.sqrt(this.mostPixels / (width * height));
    if (shrink < 1) {
      width = Math.max(1, Math.floor(width * shrink));
      height = Math.max(1, Math.floor(height * shrink));
    }
    x = Math.round(Math.min(picture.width - width, Math.max(0, x)));
    y = Math.round(Math.min(picture.height - height, Math.max(0, y)));
    this.box = { x, y, width, height };
    const style = this.frame.style;
    style.left = `${(100 * x) / picture.width}%`;
    style.top = `${(100 * y) / picture.height}%`;
    style.width = `${(100 * width) / picture.width}%`;
    style.height = `${(100 * height) / picture.height}%`;
  }

  #listen() {
    /** @type {{x: number, y: number, offset: {x: number, y: number} | null} | null} */
    let start = null;
    /** @param {PointerEvent} event */
    const point = (event) => {
      const area = this.image.getBoundingClientRect();
      return {
        x: ((event.clientX - area.left) / area.width) * (this.picture?.width ?? 0),
        y: ((event.clientY - area.top) / area.height) * (this.picture?.height ?? 0),
      };
    };
    this.holder.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      if (!this.mostPixels || event.button) return;
      event.preventDefault();
      this.holder.setPointerCapture(event.pointerId);
      const at = point(event);
      const inside = event.target === this.frame;
      start = { ...at, offset: inside ? { x: at.x - this.box.x, y: at.y - this.box.y } : null };
      this.frame.focus({ preventScroll: true });
    });
    this.holder.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      if (!start) return;
      const at = point(event);
      if (start.offset) this.#set({ ...this.box, x: at.x - start.offset.x, y: at.y - start.offset.y });
      else if (Math.hypot(at.x - start.x, at.y - start.y) >= SMALLEST) {
        this.#set({ x: Math.min(at.x, start.x), y: Math.min(at.y, start.y), width: Math.abs(at.x - start.x), height: Math.abs(at.y - start.y) });
      }
    });
    this.holder.addEventListener("pointerup", (/** @type {PointerEvent} */ event) => {
      if (!start) return;
      const at = point(event);
      const still = Math.hypot(at.x - start.x, at.y - start.y) < SMALLEST;
      if (!start.offset && still) this.#set({ ...this.box, x: at.x - this.box.width / 2, y: at.y - this.box.height / 2 });
      start = null;
    });
    this.holder.addEventListener("pointercancel", () => (start = null));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = event.shiftKey ? 64 : 8;
    const moves = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] });
    const move = moves[event.key];
    const grows = /** @type {Record<string, number>} */ ({ "+": step, "=": step, "-": -step })[event.key];
    if (!(move || grows) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (grows) {
      // Around its middle, with its shape.
      const { x, y, width, height } = this.box;
      const factor = Math.max(SMALLEST, width + grows) / width;
      this.#set({ x: x - (width * (factor - 1)) / 2, y: y - (height * (factor - 1)) / 2, width: width * factor, height: height * factor });
      return;
    }
    this.#set({ ...this.box, x: this.box.x + move[0], y: this.box.y + move[1] });
  }
}
