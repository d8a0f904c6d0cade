// A large picture on its way in pieces: after a lost connection it goes on where it stopped.
import { ApiError, json, request, send } from "./api.js";

const LEAST = 4 << 20; // bytes; a smaller picture goes with one request
// A proxy that reads a whole request first has passed on the pieces before, and a browser that
// repeats a request by itself repeats little.
const PIECE = 2 << 20;

export class Pieces {
  /** @param {File} file */
  constructor(file) {
    this.file = file;
    this.id = "";
    /** Bytes that the server has. */
    this.offset = 0;
    this.seen = 0;
    this.asked = true;
  }

  /**
   * @param {File} file
   * @returns {Pieces | null} null where one request is as good
   */
  static of(file) {
    return file.size >= LEAST ? new Pieces(file) : null;
  }

  get sent() {
    return this.offset / this.file.size;
  }

  /** Whether bytes have arrived since this was called last. */
  moved() {
    const moved = this.offset > this.seen;
    this.seen = this.offset;
    return moved;
  }

  /**
   * Send what the server does not have yet; the promise rejects like `request`.
   * @param {(sent: number, total: number) => void} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<string>} the upload's id, for the field `upload`; "": send the picture whole
   */
  async send(onProgress, signal) {
    const { size } = this.file;
    // The submission may have been accepted without our knowledge; the same one is answered again.
    if (this.id && this.offset === size) return this.id;
    try {
      if (!await this.#locate(signal)) return "";
      while (this.offset < size) {
        this.asked = false;
        this.offset = await this.#piece(this.offset, onProgress, signal);
        this.asked = true;
      }
      onProgress(size, size);
      return this.id;
    } catch (error) {
      // A proxy that knows no PATCH, or another server of a cluster: one request does without them.
      if (error instanceof ApiError && (error.code === "" || (error.code === "unknown_upload" && !this.asked))) {
        this.id = "";
        return "";
      }
      throw error;
    }
  }

  /**
   * Send the piece from a byte on; return the next byte to send.
   * @param {number} from
   * @param {(sent: number, total: number) => void} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<number>}
   */
  async #piece(from, onProgress, signal) {
    const { size } = this.file;
    try {
      return (await send("PATCH", `uploads/${this.id}`, this.file.slice(from, from + PIECE), {
        "Content-Type": "application/octet-stream", "Upload-Offset": String(from),
      }, (sent) => onProgress(Math.min(from + sent, size), size), signal)).offset;
    } catch (error) {
      // Browsers repeat a request by themselves when a used connection breaks; a part had come.
      if (!(error instanceof ApiError) || error.code !== "upload_offset") throw error;
      const { offset } = await json(`uploads/${this.id}`, { signal });
      if (offset <= from) throw error;
      return offset;
    }
  }

  /**
   * Learn where to go on.
   * @param {AbortSignal} signal
   * @returns {Promise<boolean>} false: the server keeps as many unfinished uploads as it may
   */
  async #locate(signal) {
    if (this.id) {
      try {
        this.offset = (await json(`uploads/${this.id}`, { signal })).offset;
        return true;
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== "unknown_upload") throw error;
      }
    }
    // Not announced yet, or the server was restarted.
    this.restart();
    try {
      const told = await json(`uploads?filename=${encodeURIComponent(this.file.name)}`, {
        method: "POST", headers: { "Upload-Length": String(this.file.size) }, signal,
      });
      this.id = told.upload_id;
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.code === "queue_full") return false;
      throw error;
    }
  }

  /** Begin anew: the server does not have it any more. */
  restart() {
    this.id = "";
    this.offset = this.seen = 0;
  }

  /** Let the server delete what it has; it would do so by itself later. */
  forget() {
    if (this.id) void request(`uploads/${this.id}`, { method: "DELETE" }).catch(() => {});
  }
}
