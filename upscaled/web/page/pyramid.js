// A picture as tiles of several sizes, fetched as they come into view and forgotten when too many.
import { ApiError, request } from "./api.js";

const KEPT_BYTES = 128e6; // of decoded tiles, of both sides together
const AT_ONCE = 4;

/** @typedef {{width: number, height: number, levels: number}} Side */

/** Decoded tiles of all pyramids of a view, the longest unused ones go first. */
export class TileCache {
  /**
   * @param {() => void} onTile called when a tile has come
   * @param {() => void} onRefused called when `refused` has changed
   */
  constructor(onTile, onRefused) {
    this.onTile = onTile;
    this.onRefused = onRefused;
    this.refused = ""; // why the server has no tiles any more
    /** @type {Map<string, ImageBitmap>} */
    this.tiles = new Map();
    this.bytes = 0;
    /** @type {Map<string, AbortController>} */
    this.loading = new Map();
    /** @type {Map<string, number>} times of failures */
    this.failed = new Map();
    /** @type {Map<string, number>} tiles that the view wants now, by urgency */
    this.wanted = new Map();
    this.closed = false;
    this.allowed = () => this.#refuse("");
    addEventListener("token", this.allowed);
  }

  /** Begin a new drawing: what it does not ask for is not fetched any more. */
  begin() {
    this.wanted.clear();
  }

  /**
   * @param {string} path
   * @returns {ImageBitmap | undefined}
   */
  get(path) {
    const tile = this.tiles.get(path);
    if (tile) {
      this.tiles.delete(path);
      this.tiles.set(path, tile);
    }
    return tile;
  }

  /**
   * @param {string} path
   * @param {number} urgency the lowest comes first
   */
  want(path, urgency) {
    this.wanted.set(path, urgency);
  }

  /** Fetch what the drawing asked for. */
  end() {
    for (const [path, abort] of this.loading) if (!this.wanted.has(path)) abort.abort();
    this.#next();
  }

  /** Whether tiles that the view wants have not come yet. */
  get busy() {
    return !this.refused && [...this.wanted.keys()].some((path) => !this.tiles.has(path));
  }

  close() {
    this.closed = true;
    removeEventListener("token", this.allowed);
    for (const abort of this.loading.values()) abort.abort();
    for (const tile of this.tiles.values()) tile.close();
    this.tiles.clear();
  }

  #next() {
    if (this.refused) return;
    const waiting = [...this.wanted].filter(([path]) => !this.tiles.has(path) && !this.loading.has(path) && (this.failed.get(path) ?? 0) < Date.now());
    waiting.sort((a, b) => a[1] - b[1]);
    for (const [path] of waiting.slice(0, Math.max(0, AT_ONCE - this.loading.size))) void this.#load(path);
  }

  /** @param {string} path */
  async #load(path) {
    const abort = new AbortController();
    this.loading.set(path, abort);
    try {
      const response = await request(path, { cache: "default", signal: abort.signal });
      const tile = await createImageBitmap(await response.blob());
      if (this.closed) return tile.close();
      this.tiles.set(path, tile);
      this.bytes += tile.width * tile.height * 4;
      this.#trim();
    } catch (error) {
      if (error instanceof ApiError && [401, 404, 410].includes(error.status)) this.#refuse(error.message);
      else if (!abort.signal.aborted) {
        this.failed.set(path, Date.now() + 3000);
        setTimeout(() => this.closed || this.onTile(), 3100);
      }
    } finally {
      this.loading.delete(path);
    }
    if (this.closed) return;
    this.onTile();
    this.#next();
  }

  /** @param {string} sentence why the server has no tiles any more; "": a new token may get them */
  #refuse(sentence) {
    this.refused = sentence;
    this.onRefused();
    this.onTile();
  }

  #trim() {
    for (const [path, tile] of this.tiles) {
      if (this.bytes <= KEPT_BYTES) return;
      if (this.wanted.has(path)) continue;
      this.tiles.delete(path);
      this.bytes -= tile.width * tile.height * 4;
      tile.close();
    }
  }
}

export class Pyramid {
  /**
   * @param {TileCache} cache
   * @param {string} path of its tiles, up to the level
   * @param {Side} side
   * @param {number} tileSize
   */
  constructor(cache, path, side, tileSize) {
    this.cache = cache;
    this.path = path;
    this.side = side;
    this.tileSize = tileSize;
  }

  /**
   * Draw what is in view, from coarse to fine, and ask for what is missing.
   * @param {CanvasRenderingContext2D} context
   * @param {{x: number, y: number, scale: number}} place of the picture on the canvas, and canvas pixels for each of its pixels
   * @param {{x: number, y: number, width: number, height: number}} clip the part of the canvas to draw
   */
  draw(context, place, clip) {
    const finest = Math.min(this.side.levels - 1, Math.max(0, Math.floor(Math.log2(1 / place.scale) + 0.01)));
    for (let level = this.side.levels - 1; level >= finest; level -= 1) {
      this.#drawLevel(context, place, clip, level, level === finest || level === this.side.levels - 1);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{x: number, y: number, scale: number}} place
   * @param {{x: number, y: number, width: number, height: number}} clip
   * @param {number} level
   * @param {boolean} fetching
   */
  #drawLevel(context, place, clip, level, fetching) {
    const step = 2 ** level;
    const span = this.tileSize * step; // pixels of the picture that a tile covers
    const size = span * place.scale;
    const columns = Math.ceil(Math.ceil(this.side.width / step) / this.tileSize);
    const rows = Math.ceil(Math.ceil(this.side.height / step) / this.tileSize);
    const firstColumn = Math.max(0, Math.floor((clip.x - place.x) / size));
    const lastColumn = Math.min(columns - 1, Math.floor((clip.x + clip.width - place.x) / size));
    const firstRow = Math.max(0, Math.floor((clip.y - place.y) / size));
    const lastRow = Math.min(rows - 1, Math.floor((clip.y + clip.height - place.y) / size));
    for (let row = firstRow; row <= lastRow; row += 1) {
      for (let column = firstColumn; column <= lastColumn; column += 1) {
        const path = `${this.path}/${level}/${column}/${row}`;
        const tile = this.cache.get(path);
        const centre = Math.hypot((column + 0.5) * size + place.x - clip.x - clip.width / 2, (row + 0.5) * size + place.y - clip.y - clip.height / 2);
        if (fetching) this.cache.want(path, level > 0 && level === this.side.levels - 1 ? -1 : centre);
        if (!tile) continue;
        const left = place.x + column * size;
        const top = place.y + row * size;
        // The last tile of a row may cover a part of a pixel of its level that is not there.
        const width = Math.min(span, this.side.width - column * span) * place.scale;
        const height = Math.min(span, this.side.height - row * span) * place.scale;
        // Whole pixels at the borders, so that no seam shows between tiles.
        const x = Math.round(left);
        const y = Math.round(top);
        context.clearRect(x, y, Math.round(left + width) - x, Math.round(top + height) - y);
        context.drawImage(tile, x, y, Math.round(left + width) - x, Math.round(top + height) - y);
      }
    }
  }
}
