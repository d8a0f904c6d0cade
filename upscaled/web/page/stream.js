// Server-sent events by fetch(), which can send a token; an EventSource cannot.
import { ApiError, authorization, address, refusal } from "./api.js";

const SILENCE = 40_000; // milliseconds; the server sends something every 15 s
const SHORTEST_PAUSE = 1000;
const LONGEST_PAUSE = 10_000;
// A browser opens six connections to one server for all its tabs. A hidden tab gives its own back,
// or the seventh tab would not even load.
const HIDDEN = 10_000;

/**
 * A stream that connects again until it is closed. Events: `open`, `update` with the job as
 * `detail`, `deleted` with what is left of one, `lost` when the connection breaks.
 */
export class Stream extends EventTarget {
  /** @param {string} path */
  constructor(path) {
    super();
    this.path = path;
    this.lastId = "";
    this.closed = false;
    this.pause = SHORTEST_PAUSE;
    this.lastHeard = 0;
    this.connected = false;
    this.failed = false; // since it was connected last
    this.renewing = false; // the connection was ended here, to make another one
    this.parked = false; // while the tab is hidden
    this.parking = 0;
    /** @type {AbortController | null} */
    this.abort = null;
    this.wake = () => {};
    this.online = () => this.reconnect(this.#doubtful(SILENCE / 2));
    // A page that comes back from the browser's cache has no connections.
    this.back = (/** @type {PageTransitionEvent} */ event) => this.reconnect(event.persisted || this.#doubtful(SILENCE / 2));
    this.seen = () => this.#seen();
    addEventListener("online", this.online);
    addEventListener("pageshow", this.back);
    document.addEventListener("visibilitychange", this.seen);
    this.watchdog = setInterval(() => {
      // The connection may be dead without an error, also before it was answered.
      if (!this.abort || Date.now() - this.lastHeard <= SILENCE) return;
      this.failed = true;
      this.pause = SHORTEST_PAUSE;
      this.abort.abort();
    }, SILENCE / 4);
    void this.#run();
    if (document.visibilityState === "hidden") this.#seen();
  }

  close() {
    this.closed = true;
    removeEventListener("online", this.online);
    removeEventListener("pageshow", this.back);
    document.removeEventListener("visibilitychange", this.seen);
    clearInterval(this.watchdog);
    clearTimeout(this.parking);
    this.abort?.abort();
    this.wake();
  }

  /** @param {boolean} [needed] */
  reconnect(needed = true) {
    if (!needed || this.closed) return;
    this.pause = SHORTEST_PAUSE;
    this.renewing = this.abort !== null;
    this.abort?.abort();
    this.wake();
  }

  /**
   * After sleep a connection looks alive although nothing comes any more.
   * @param {number} silence milliseconds
   */
  #doubtful(silence) {
    return !this.connected || Date.now() - this.lastHeard > silence;
  }

  #seen() {
    clearTimeout(this.parking);
    if (document.visibilityState === "visible") {
      const parked = this.parked;
      this.parked = false;
      this.reconnect(parked || this.#doubtful(SILENCE / 2));
    } else {
      this.parking = setTimeout(() => {
        this.parked = true;
        this.abort?.abort();
      }, HIDDEN);
    }
  }

  async #run() {
    while (!this.closed) {
      if (this.parked) {
        await new Promise((resolve) => (this.wake = () => resolve(undefined)));
        continue;
      }
      try {
        await this.#listen();
      } catch (error) {
        if (error instanceof ApiError && error.status < 500 && error.status !== 429) {
          this.closed = true;
          this.dispatchEvent(new CustomEvent("refused", { detail: error }));
          break;
        }
      }
      this.abort = null;
      const told = this.connected || this.failed;
      const { renewing } = this;
      this.connected = this.renewing = false;
      if (this.closed) break;
      if (this.parked || renewing) continue;
      this.failed = true;
      if (told) this.dispatchEvent(new Event("lost"));
      await new Promise((resolve) => {
        this.wake = () => resolve(undefined);
        setTimeout(this.wake, this.pause);
      });
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 1.6);
    }
  }

  async #listen() {
    this.abort = new AbortController();
    this.lastHeard = Date.now();
    const headers = authorization();
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    const response = await fetch(address(this.path), { headers, cache: "no-store", signal: this.abort.signal });
    if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
    if (!response.body) return;
    this.connected = true;
    this.failed = false;
    this.pause = SHORTEST_PAUSE;
    this.lastHeard = Date.now();
    this.dispatchEvent(new Event("open"));
    const reader = response.body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.lastHeard = Date.now();
      text += value;
      const events = text.split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) this.#event(event);
    }
  }

  /** @param {string} event */
  #event(event) {
    let name = "";
    let data = "";
    for (const line of event.split("\n")) {
      if (line.startsWith("id: ")) this.lastId = line.slice(4);
      else if (line.startsWith("event: ")) name = line.slice(7);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (data) this.dispatchEvent(new CustomEvent(name, { detail: JSON.parse(data) }));
  }
}
