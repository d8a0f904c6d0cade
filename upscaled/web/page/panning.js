// Zoom and pan of a picture on a canvas, by mouse, touch and keys.

const STEP = 80; // CSS pixels that an arrow key moves

export class Panning {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} onChange
   * @param {number} most canvas pixels for a pixel of the picture
   */
  constructor(canvas, onChange, most) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.most = most;
    this.zoom = 1; // canvas pixels for a pixel of the picture
    this.centre = { x: 0, y: 0 }; // of the view, in pixels of the picture
    this.size = { width: 1, height: 1 };
    this.fitted = true;
    this.halves = false;
    /** @type {(x: number) => ((x: number) => void) | null} */
    this.hold = () => null;
    this.#listen();
  }

  /**
   * @param {number} width
   * @param {number} height
   */
  setPicture(width, height) {
    this.size = { width, height };
  }

  /** @param {boolean} halves whether each side has half of the canvas */
  resized(halves) {
    this.halves = halves;
    if (this.fitted) this.fit();
  }

  /**
   * Where the picture's corner lies on the canvas.
   * @param {number} shift
   */
  place(shift) {
    return {
      x: this.canvas.width / 2 + shift - this.centre.x * this.zoom,
      y: this.canvas.height / 2 - this.centre.y * this.zoom,
    };
  }

  get #fitting() {
    const width = this.halves ? this.canvas.width / 2 : this.canvas.width;
    return Math.min(width / this.size.width, this.canvas.height / this.size.height) * 0.96;
  }

  fit() {
    this.zoom = Math.min(this.most, this.#fitting);
    this.centre = { x: this.size.width / 2, y: this.size.height / 2 };
    this.fitted = true;
    this.onChange();
  }

  /** One pixel of the picture on each pixel of the screen. */
  pixels() {
    this.zoomTo(1);
  }

  /** @param {number} factor */
  zoomBy(factor) {
    this.zoomTo(this.zoom * factor);
  }

  /**
   * @param {number} zoom
   * @param {{x: number, y: number}} [at] point of the canvas that stays, else its middle
   */
  zoomTo(zoom, at) {
    const least = Math.min(1, this.#fitting);
    const next = Math.min(this.most, Math.max(least, zoom));
    const point = at ?? { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    const dx = point.x - this.canvas.width / 2;
    const dy = point.y - this.canvas.height / 2;
    this.centre.x += dx / this.zoom - dx / next;
    this.centre.y += dy / this.zoom - dy / next;
    this.zoom = next;
    this.fitted = next === least;
    this.#bound();
  }

  /**
   * @param {number} dx canvas pixels that the view moves to the right
   * @param {number} dy
   */
  move(dx, dy) {
    this.centre.x += dx / this.zoom;
    this.centre.y += dy / this.zoom;
    this.fitted = false;
    this.#bound();
  }

  #bound() {
    this.centre.x = Math.min(this.size.width, Math.max(0, this.centre.x));
    this.centre.y = Math.min(this.size.height, Math.max(0, this.centre.y));
    this.onChange();
  }

  /**
   * @param {KeyboardEvent} event
   * @param {boolean} arrows whether arrow keys are for the picture
   * @returns {boolean} whether the key was one of ours
   */
  key(event, arrows) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const step = STEP * (devicePixelRatio || 1);
    /** @type {Record<string, () => void>} */
    const keys = {
      "+": () => this.zoomBy(2), "=": () => this.zoomBy(2), "-": () => this.zoomBy(0.5), 0: () => this.fit(), 1: () => this.pixels(),
      ...(arrows && {
        ArrowLeft: () => this.move(-step, 0), ArrowRight: () => this.move(step, 0),
        ArrowUp: () => this.move(0, -step), ArrowDown: () => this.move(0, step),
      }),
    };
    const work = keys[event.key];
    work?.();
    return Boolean(work);
  }

  #listen() {
    /** @type {Map<number, {x: number, y: number}>} */
    const pointers = new Map();
    /** @type {((x: number) => void) | null} */
    let held = null;
    const point = (/** @type {MouseEvent} */ event) => {
      const area = this.canvas.getBoundingClientRect();
      const ratio = this.canvas.width / area.width;
      return { x: (event.clientX - area.left) * ratio, y: (event.clientY - area.top) * ratio };
    };
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 20 : 1;
      this.zoomTo(this.zoom * 2 ** ((-event.deltaY * lines) / 240), point(event));
    }, { passive: false });
    this.canvas.addEventListener("dblclick", (event) => this.zoomTo(this.zoom < 1 ? 1 : this.zoom * 2, point(event)));
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      const at = point(event);
      pointers.set(event.pointerId, at);
      held = pointers.size === 1 ? this.hold(at.x / this.canvas.width) : null;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      const at = point(event);
      if (!before) {
        this.canvas.classList.toggle("on-line", Boolean(this.hold(at.x / this.canvas.width)));
        return;
      }
      if (held) held(at.x / this.canvas.width);
      else if (pointers.size === 1) this.move(before.x - at.x, before.y - at.y);
      else if (pointers.size === 2) {
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, value]) => value);
        const was = Math.hypot(before.x - other.x, before.y - other.y) || 1;
        this.move((before.x - at.x) / 2, (before.y - at.y) / 2);
        this.zoomTo((this.zoom * Math.hypot(at.x - other.x, at.y - other.y)) / was, { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 });
      }
      pointers.set(event.pointerId, at);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, (event) => {
        pointers.delete(/** @type {PointerEvent} */ (event).pointerId);
        held = null;
      });
    }
  }
}
