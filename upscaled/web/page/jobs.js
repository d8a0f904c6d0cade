// All jobs of the caller as the server has them, kept right by events.
import { ApiError, json, request, token } from "./api.js";
import { OwnJobs } from "./own.js";
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
 * @property {number} heard when the server told it, in milliseconds since 1970
 * @property {number} [ready] when the result is expected, in milliseconds since 1970
 */

const PAGE = 200;
const STREAMS = 2; // of six connections that a browser opens to one server, for all its windows
const AGAIN = 5; // seconds until the list is read again where that failed
const SETTLE = 2; // seconds that the first events of a stream may take
const ARRIVING = [1, 2, 4, 8, 16, 32, 64, 128]; // seconds between looks at whether results have arrived
export const ACTIVE = new Set(["queued", "processing"]);

/**
 * How far a job is. It never goes back, so of two answers the one that is less far is the older.
 * @param {Job} job
 */
function stepOf(job) {
  return ACTIVE.has(job.status) ? 0 : job.result_gone ? 2 : 1;
}

/**
 * Events: `change`; `ended` with a job; `deleted` with the id of a job that is gone; `lost` and `open`
 * for the connection; `submitted`.
 */
export class Jobs extends EventTarget {
  /** @param {boolean} listed whether the server lists jobs; else this browser remembers its own */
  constructor(listed) {
    super();
    this.listed = listed;
    /** @type {Map<string, Job>} */
    this.known = new Map();
    /** @type {Job[] | null} */
    this.sorted = [];
    /** Ids of jobs that are gone: an answer from before does not bring them back. */
    this.gone = new Set();
    this.cursor = "";
    this.newest = 0; // time of the newest job in the list as it was read last
    this.loading = false;
    this.loaded = false;
    /** @type {Map<string, Stream>} */
    this.streams = new Map();
    this.run = 0; // grows with each token, so that answers to the one before are left out
    this.again = 0;
    this.own = new OwnJobs();
    this.own.addEventListener("added", (event) => void this.#added(/** @type {CustomEvent} */ (event).detail));
    this.own.addEventListener("removed", (event) => this.#remove(/** @type {CustomEvent} */ (event).detail));
    // Without lists no event tells what was deleted or downloaded; other tabs of this browser do.
    /** @type {BroadcastChannel | null} */
    this.tabs = null;
    try {
      this.tabs = new BroadcastChannel("upscaled.jobs");
      this.tabs.onmessage = ({ data }) => this.known.has(data) && void this.check(data);
    } catch { /* some browsers have none where storage is blocked */ }
  }

  /** All jobs that are loaded, the newest first. */
  get list() {
    this.sorted ??= [...this.known.values()].sort((a, b) => b.created - a.created || (a.job_id < b.job_id ? 1 : -1));
    return this.sorted;
  }

  /** Begin to listen; again after a new token. */
  start() {
    this.run += 1;
    for (const stream of this.streams.values()) stream.close();
    this.streams.clear();
    this.known.clear();
    this.gone.clear();
    this.sorted = null;
    this.cursor = "";
    this.newest = 0;
    this.loaded = this.loading = false;
    this.#changed();
    if (this.listed) this.#listen("events?deletions=true", "");
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
    stream.addEventListener("deleted", (event) => this.#missing(/** @type {CustomEvent} */ (event).detail.job_id));
    stream.addEventListener("lost", () => this.dispatchEvent(new Event("lost")));
    stream.addEventListener("open", () => {
      this.dispatchEvent(new Event("open"));
      if (this.listed) void this.#resync();
    });
    stream.addEventListener("refused", (event) => {
      this.streams.delete(name);
      if (name && /** @type {CustomEvent} */ (event).detail.status === 404) this.#missing(name);
    });
  }

  /** Read the newest jobs again: a stream that connects again does not tell all that was missed. */
  async #resync() {
    const { run } = this;
    const since = Date.now();
    clearTimeout(this.again);
    try {
      const page = await json(`jobs?limit=${PAGE}`);
      if (run !== this.run) return;
      const oldest = page.jobs.at(-1)?.created ?? 0;
      for (const job of page.jobs) this.#put(job);
      // At first, or after so many new ones that there are others between these and the known ones.
      if (!this.loaded || oldest > this.newest) this.cursor = page.next_cursor ?? "";
      this.newest = page.jobs[0]?.created ?? 0;
      this.loaded = true;
      this.#changed();
      // The stream begins with all active jobs, and with those that ended meanwhile: they are as told.
      await new Promise((resolve) => setTimeout(resolve, SETTLE * 1000));
      const doubtful = this.list.filter((job) => job.heard < since && (!page.next_cursor || job.created > oldest || ACTIVE.has(job.status)));
      for (const job of doubtful) if (run === this.run) await this.check(job.job_id);
    } catch (error) {
      if (run !== this.run || (error instanceof ApiError && error.status === 401)) return;
      const seconds = (error instanceof ApiError && error.retryAfter) || AGAIN;
      this.again = setTimeout(() => void this.#resync(), seconds * 1000);
    }
  }

  /**
   * Ask the server for a job, which may be gone.
   * @param {string} id
   */
  async check(id) {
    const { run } = this;
    try {
      const told = await json(`status/${id}`);
      if (run === this.run) this.#put(told);
    } catch (error) {
      if (run === this.run && error instanceof ApiError && error.status === 404) this.#missing(id);
    }
    this.#changed();
  }

  /** Load the next older jobs, if there are any. */
  async more() {
    if (!this.cursor || this.loading) return;
    const { run, cursor } = this;
    this.loading = true;
    try {
      const page = await json(`jobs?limit=${PAGE}&cursor=${cursor}`);
      if (run !== this.run) return;
      if (this.cursor === cursor) this.cursor = page.next_cursor ?? "";
      for (const job of page.jobs) this.#put(job);
      this.#changed();
    } catch { /* the next scroll tries again */ } finally {
      if (run === this.run) this.loading = false;
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
    const unseen = this.loaded && !this.known.has(told.job_id) && !this.gone.has(told.job_id);
    this.#put(told);
    if (unseen && !ACTIVE.has(told.status)) this.dispatchEvent(new CustomEvent("ended", { detail: told }));
    this.#changed();
    if (!this.listed && !ACTIVE.has(told.status)) this.#follow();
  }

  /** @param {any} told */
  #put(told) {
    const before = this.known.get(told.job_id);
    if (this.gone.has(told.job_id) || (before && stepOf(told) < stepOf(before))) return;
    const job = { ...told, heard: Date.now(), created: told.created ?? before?.created ?? Date.now() / 1000 };
    if (!job.input_size && before?.input_size) job.input_size = before.input_size;
    if (told.eta_seconds !== undefined) job.ready = Date.now() + told.eta_seconds * 1000;
    this.known.set(job.job_id, job);
    this.sorted = null;
    if (before && ACTIVE.has(before.status) && !ACTIVE.has(job.status)) this.dispatchEvent(new CustomEvent("ended", { detail: job }));
  }

  /**
   * The server does not know a job.
   * @param {string} id
   */
  #missing(id) {
    // With tokens it may be the job of another token, which is in use in another tab or next time.
    if (!token()) this.own.remove(id);
    this.#remove(id);
  }

  /** @param {string} id */
  #remove(id) {
    this.gone.add(id);
    if (!this.known.delete(id)) return;
    this.sorted = null;
    this.dispatchEvent(new CustomEvent("deleted", { detail: id }));
    this.#changed();
    if (!this.listed) this.#follow();
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
    this.own.remove(id);
    this.#remove(id);
    this.tabs?.postMessage(id);
  }

  /**
   * Results are being saved. Where the server lists no jobs, no event tells that one has arrived.
   * @param {string[]} ids
   */
  async saving(ids) {
    if (this.listed) return;
    for (const pause of ARRIVING) {
      await new Promise((resolve) => setTimeout(resolve, pause * 1000));
      const waiting = ids.filter((id) => this.known.has(id) && !this.known.get(id)?.result_gone);
      if (!waiting.length) return;
      for (const id of waiting) {
        await this.check(id);
        if (this.known.get(id)?.result_gone) this.tabs?.postMessage(id);
      }
    }
  }

  /** @param {string} id of a failed or cancelled job; its picture is tried again as a new job */
  async retry(id) {
    const told = await json(`jobs/${id}/retry`, { method: "POST" });
    await this.check(told.job_id);
    this.#remember(told.job_id);
    return told.job_id;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  // Where the server lists no jobs, the page knows those that this browser sent.

  async #resume() {
    const { run } = this;
    for (const id of this.own.ids) {
      await this.check(id);
      if (run !== this.run) return;
    }
    this.loaded = true;
    this.#changed();
    this.#follow();
  }

  /** @param {string} id */
  #remember(id) {
    if (this.listed) return;
    this.own.add(id);
    this.#follow();
  }

  /** @param {string} id of a job that another tab sent */
  async #added(id) {
    if (this.listed || !this.run) return;
    await this.check(id);
    this.#follow();
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
