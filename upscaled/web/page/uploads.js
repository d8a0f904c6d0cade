// Pictures on their way to the server. A lost connection or a full queue delays them, no more.
import { ApiError, ConnectionError, send, setToken } from "./api.js";
import { Pieces } from "./pieces.js";
import { t } from "./text.js";

const AT_ONCE = 2;
const LONGEST_PAUSE = 15; // seconds
/** Refusals that end by themselves; the request is sent again later. */
const PASSING = new Set(["queue_full", "shutting_down", "too_many_connections", "rate_limited", "idempotency_key_in_use", "request_timeout", "unknown_upload", "upload_offset", "upload_incomplete"]);
/** Refusals that any other upload would meet as well. */
const COMMON = new Set(["queue_full", "shutting_down", "too_many_connections", "rate_limited"]);
/** Answers to a submission whose picture the server no longer has. */
const LOST = new Set(["unknown_upload", "upload_incomplete"]);

/**
 * @typedef {object} Upload
 * @property {string} key names the request, so that sending it again makes no second job
 * @property {import("./stage.js").Picture} picture
 * @property {Record<string, string>} fields
 * @property {"waiting"|"sending"|"paused"|"refused"} state
 * @property {Pieces | null} pieces how a large picture is sent; null: with one request
 * @property {number} sent 0 to 1
 * @property {string} reason why it is paused or refused
 * @property {number} resumes when a paused one goes on, in milliseconds since 1970
 * @property {number} tries
 * @property {AbortController} abort
 */

export class Uploads extends EventTarget {
  /** @param {import("./jobs.js").Jobs} jobs */
  constructor(jobs) {
    super();
    this.jobs = jobs;
    /** @type {Upload[]} the newest first */
    this.list = [];
    /** Until when nothing is sent, in milliseconds since 1970: what one met, the others would meet. */
    this.held = 0;
    this.full = false; // whether that is because the queue is full
    addEventListener("online", () => this.#resumeAll());
    addEventListener("beforeunload", (event) => {
      if (this.list.some((upload) => upload.state !== "refused")) event.preventDefault();
    });
  }

  /**
   * @param {import("./stage.js").Picture} picture
   * @param {Record<string, string>} fields
   */
  add(picture, fields) {
    this.list.unshift({
      key: randomKey(), picture, fields, pieces: Pieces.of(picture.file), state: "waiting", sent: 0, reason: "", resumes: 0, tries: 0,
      abort: new AbortController(),
    });
    this.#changed();
    this.#next();
  }

  /** @param {Upload} upload */
  remove(upload) {
    upload.abort.abort();
    upload.pieces?.forget();
    this.#drop(upload);
    URL.revokeObjectURL(upload.picture.url);
  }

  /** @param {Upload} upload that was refused or is paused */
  again(upload) {
    upload.key = upload.state === "refused" ? randomKey() : upload.key;
    upload.state = "waiting";
    this.held = 0;
    this.#changed();
    this.#next();
  }

  /** Send what a missing token held back. */
  resume() {
    this.#resumeAll();
  }

  /** A job has ended: a queue that was full has a place. */
  placeFreed() {
    if (this.full) this.#resumeAll();
  }

  #resumeAll() {
    this.held = 0;
    this.full = false;
    for (const upload of this.list) if (upload.state === "paused") upload.state = "waiting";
    this.#next();
  }

  /** @param {Upload} upload */
  #drop(upload) {
    this.list = this.list.filter((other) => other !== upload);
    this.#changed();
    this.#next();
  }

  #next() {
    if (Date.now() < this.held) return;
    const sending = this.list.filter((upload) => upload.state === "sending").length;
    const waiting = this.list.filter((upload) => upload.state === "waiting").reverse();
    for (const upload of waiting.slice(0, Math.max(0, AT_ONCE - sending))) void this.#send(upload);
  }

  /** @param {Upload} upload */
  async #send(upload) {
    upload.state = "sending";
    upload.sent = upload.pieces?.sent ?? 0;
    upload.reason = "";
    this.#changed();
    const { file } = upload.picture;
    const progress = (/** @type {number} */ sent, /** @type {number} */ total) => {
      upload.sent = total ? sent / total : 0;
      this.#changed();
    };
    try {
      const form = new FormData();
      for (const [name, value] of Object.entries(upload.fields)) form.append(name, value);
      const id = await upload.pieces?.send(progress, upload.abort.signal);
      if (id) form.append("upload", id);
      else form.append("image", file, file.name);
      const told = await send("POST", "upscale", form, { "Idempotency-Key": upload.key }, id ? () => {} : progress, upload.abort.signal);
      this.jobs.submitted(told.job_id, upload);
      this.#drop(upload);
    } catch (error) {
      if (upload.abort.signal.aborted) return;
      const unreadable = error instanceof ConnectionError && !await readable(file);
      if (upload.abort.signal.aborted) return;
      this.#failed(upload, unreadable ? new Error(t("upload.unreadable", { name: file.name })) : /** @type {Error} */ (error));
    }
    this.#next();
  }

  /**
   * @param {Upload} upload
   * @param {Error} error
   */
  #failed(upload, error) {
    if (upload.pieces?.moved()) upload.tries = 0;
    if (error instanceof ApiError && LOST.has(error.code)) upload.pieces?.restart();
    upload.tries += 1;
    this.full ||= error instanceof ApiError && error.code === "queue_full";
    if (error instanceof ConnectionError) this.#pause(upload, t("upload.lost"), Math.min(LONGEST_PAUSE, 2 ** upload.tries / 2));
    else if (error instanceof ApiError && error.status === 401) {
      setToken("");
      this.#pause(upload, error.message, Infinity);
    } else if (error instanceof ApiError && PASSING.has(error.code)) this.#pause(upload, error.message, error.retryAfter || 5, COMMON.has(error.code));
    else {
      upload.state = "refused";
      upload.reason = error.message;
      this.dispatchEvent(new CustomEvent("refused", { detail: upload }));
    }
    this.#changed();
  }

  /**
   * @param {Upload} upload
   * @param {string} reason
   * @param {number} seconds
   * @param {boolean} common whether the others would meet the same
   */
  #pause(upload, reason, seconds, common = true) {
    upload.state = "paused";
    upload.reason = reason;
    upload.resumes = Date.now() + seconds * 1000;
    if (common) this.held = Math.max(this.held, upload.resumes);
    if (!Number.isFinite(seconds)) return;
    setTimeout(() => {
      if (upload.state === "paused" && Date.now() >= upload.resumes) upload.state = "waiting";
      this.#next(); // also where it was removed: it held the others back
    }, seconds * 1000 + 1);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Whether a file is still there as it was chosen. A browser reports a changed one as a lost connection.
 * @param {File} file
 */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

/** A key that nobody guesses; pages without TLS have no crypto.randomUUID. */
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
