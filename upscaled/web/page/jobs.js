// All jobs of the caller as the server has them, kept right by events.
import { ApiError, json, request } from "./api.js";
import { Stream } from "./stream.js";

/**
 * @typedef {object} Job the server's status, and what the page adds
 * @property {string} job_id
 * @property {"queued"|"processing"|"completed"|"failed"|"cancelled"} status
 * @property {string} model_name
 * @property {string} [filename]
 * @property {number} [scale]
 * @property {number} [progress]
 * @property {number} [queue_position]
 * @property {number} [eta_seconds]
 * @property {string} [stage]
 * @property {number} [attempt]
 * @property {{engine: string, device: string, tile_size: number, outcome: string}[]} [attempts]
 * @property {string} [error]
 * @property {{width: number, height: number}} [input_size]
 * @property {{width: number, height: number}} [output_size]
 * @property {number} [file_size_bytes]
 * @property {number} [duration_seconds]
 * @property {number} [expires]
 * @property {string} [result_gone]
 * @property {number} created seconds since 1970
 * @property {number} [ready] when the result is expected, in milliseconds since 1970
 */

const PAGE = 200;
const OWN = "upscaled.jobs";
const MOST_OWN = 200;
const STREAMS = 3; // of six connections that a browser opens to one server
export const ACTIVE = new Set(["queued", "processing"]);

export class Jobs extends EventTarget {
  /** @param {boolean} listed whether the server lists jobs; else this browser remembers its own */
  constructor(listed) {
    super();
    this.listed = listed;
    /** @type {Map<string, Job>} */
    this.known = new Map();
    /** @type {Job[] | null} */
    this.sorted = [];
    this.cursor = "";
    this.loading = false;
    this.loaded = false;
    /** @type {Map<string, Stream>} */
    this.streams = new Map();
  }

  /** All jobs that are loaded, the newest first. */
  get list() {
    this.sorted ??= [...this.known.values()].sort((a, b) => b.created - a.created || (a.job_id < b.job_id ? 1 : -1));
    return this.sorted;
  }

  /** Begin to listen; again after a new token. */
  start() {
    for (const stream of this.streams.values()) stream.close();
    this.streams.clear();
    this.known.clear();
    this.cursor = "";
    this.loaded = false;
    this.#changed();
    if (this.listed) this.#listen("events", "");
    else void this.#resume();
  }

  /**
   * @param {string} path
   * @param {string} name
   */
  #listen(path, name) {
    const stream = new Stream(path);
    this.streams.set(name, stream);
    stream.addEventListener("update", (event) => this.update(/** @type {CustomEvent} */ (event).detail));
    stream.addEventListener("lost", () => this.dispatchEvent(new Event("lost")));
    stream.addEventListener("open", () => {
      this.dispatchEvent(new Event("open"));
      if (this.listed) void this.#resync();
    });
    stream.addEventListener("refused", (event) => {
      this.streams.delete(name);
      if (name && /** @type {CustomEvent} */ (event).detail.status === 404) this.#forget(name);
    });
  }

  /** Read the newest jobs again: events do not tell what was deleted, nor all that was missed. */
  async #resync() {
    try {
      const page = await json(`jobs?limit=${PAGE}`);
      const fresh = new Set(page.jobs.map((/** @type {Job} */ job) => job.job_id));
      const oldest = page.jobs.at(-1)?.created ?? 0;
      for (const job of page.jobs) this.#put(job);
      const doubtful = this.list.filter((job) => !fresh.has(job.job_id) && (!page.next_cursor || job.created > oldest || ACTIVE.has(job.status)));
      if (!this.loaded) this.cursor = page.next_cursor ?? "";
      this.loaded = true;
      this.#changed();
      for (const job of doubtful) await this.#check(job.job_id);
    } catch (error) {
      if (!(error instanceof ApiError)) return; // the stream connects again and calls this again
      this.dispatchEvent(new CustomEvent("problem", { detail: error }));
    }
  }

  /** @param {string} id */
  async #check(id) {
    try {
      this.#put(await json(`status/${id}`));
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.#forget(id);
    }
    this.#changed();
  }

  /** Load the next older jobs, if there are any. */
  async more() {
    if (!this.cursor || this.loading) return;
    this.loading = true;
    try {
      const page = await json(`jobs?limit=${PAGE}&cursor=${this.cursor}`);
      this.cursor = page.next_cursor ?? "";
      for (const job of page.jobs) this.#put(job);
      this.#changed();
    } catch { /* the next scroll tries again */ } finally {
      this.loading = false;
    }
  }

  /**
   * An upload became a job. Its first event may have come already.
   * @param {string} id
   * @param {import("./uploads.js").Upload} upload
   */
  submitted(id, upload) {
    const { picture, fields } = upload;
    const size = picture.width ? { input_size: { width: picture.width, height: picture.height } } : {};
    if (!this.known.has(id)) {
      this.#put({ job_id: id, status: "queued", progress: 0, model_name: fields.model_name, filename: picture.file.name, created: Date.now() / 1000, ...size });
    }
    this.dispatchEvent(new CustomEvent("submitted", { detail: { id, picture } }));
    this.#remember(id);
    this.#changed();
  }

  /**
   * @param {any} told a job's status; events and lists do not all have the same members
   */
  update(told) {
    const before = this.known.get(told.job_id);
    this.#put(told);
    this.#changed();
    if (before && ACTIVE.has(before.status) && !ACTIVE.has(told.status)) {
      this.dispatchEvent(new CustomEvent("ended", { detail: told }));
      if (!this.listed) this.#follow();
    }
  }

  /** @param {any} told */
  #put(told) {
    const before = this.known.get(told.job_id);
    const job = { ...told, created: told.created ?? before?.created ?? Date.now() / 1000 };
    if (!job.input_size && before?.input_size) job.input_size = before.input_size;
    if (told.eta_seconds !== undefined) job.ready = Date.now() + told.eta_seconds * 1000;
    this.known.set(job.job_id, job);
    this.sorted = null;
  }

  /** @param {string} id */
  #forget(id) {
    this.known.delete(id);
    this.sorted = null;
    if (!this.listed) this.#store();
  }

  /** @param {string} id */
  async cancel(id) {
    await request(`cancel/${id}`, { method: "POST" });
  }

  /** @param {string} id */
  async delete(id) {
    try {
      await request(`jobs/${id}`, { method: "DELETE" });
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
    this.#forget(id);
    this.#changed();
    this.dispatchEvent(new CustomEvent("deleted", { detail: id }));
  }

  /** @param {string} id of a failed or cancelled job; its picture is tried again as a new job */
  async retry(id) {
    const told = await json(`jobs/${id}/retry`, { method: "POST" });
    this.#remember(told.job_id);
    await this.#check(told.job_id);
    return told.job_id;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  // Where the server lists no jobs, the page knows those that this browser sent.

  async #resume() {
    this.loaded = true;
    /** @type {string[]} */
    let ids = [];
    try {
      ids = JSON.parse(localStorage.getItem(OWN) ?? "[]");
    } catch { /* no storage, or not what we wrote */ }
    for (const id of ids) await this.#check(id);
    this.#follow();
  }

  /** @param {string} id */
  #remember(id) {
    if (this.listed) return;
    this.#store(id);
    this.#follow();
  }

  /** @param {string} [extra] */
  #store(extra) {
    const ids = this.list.map((job) => job.job_id);
    if (extra && !ids.includes(extra)) ids.unshift(extra);
    localStorage.setItem(OWN, JSON.stringify(ids.slice(0, MOST_OWN)));
  }

  /** Listen to the oldest active jobs, a few at a time: those run first. */
  #follow() {
    const active = this.list.filter((job) => ACTIVE.has(job.status)).reverse().slice(0, STREAMS).map((job) => job.job_id);
    for (const [id, stream] of this.streams) {
      if (active.includes(id)) continue;
      stream.close();
      this.streams.delete(id);
    }
    for (const id of active) if (!this.streams.has(id)) this.#listen(`events/${id}`, id);
  }
}
