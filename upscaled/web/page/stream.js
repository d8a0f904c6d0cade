// Server-sent events by fetch(), which can send a token; an EventSource cannot.
import { ApiError, authorization, address, refusal } from "./api.js";

const SILENCE = 40_000; // milliseconds; the server sends something every 15 s
const SHORTEST_PAUSE = 1000;
const LONGEST_PAUSE = 10_000;

/**
 * A stream that connects again until it is closed. Events: `open`, `update` with the job as
 * `detail`, `lost` when the connection breaks.
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
    /** @type {AbortController | null} */
    this.abort = null;
    this.wake = () => {};
    this.revive = () => {
      // After sleep a connection looks alive although nothing comes any more.
      if (document.visibilityState === "visible") this.reconnect(!this.connected || Date.now() - this.lastHeard > SILENCE / 2);
    };
    for (const name of ["online", "pageshow"]) addEventListener(name, this.revive);
    document.addEventListener("visibilitychange", this.revive);
    this.watchdog = setInterval(() => this.reconnect(this.connected && Date.now() - this.lastHeard > SILENCE), SILENCE / 4);
    void this.#run();
  }

  close() {
    this.closed = true;
    for (const name of ["online", "pageshow"]) removeEventListener(name, this.revive);
    document.removeEventListener("visibilitychange", this.revive);
    clearInterval(this.watchdog);
    this.abort?.abort();
    this.wake();
  }

  /** @param {boolean} [needed] */
  reconnect(needed = true) {
    if (!needed || this.closed) return;
    this.pause = SHORTEST_PAUSE;
    this.abort?.abort();
    this.wake();
  }

  async #run() {
    while (!this.closed) {
      try {
        await this.#listen();
      } catch (error) {
        if (error instanceof ApiError && error.status < 500 && error.status !== 429) {
          this.closed = true;
          this.dispatchEvent(new CustomEvent("refused", { detail: error }));
          break;
        }
      }
      const was = this.connected;
      this.connected = false;
      if (this.closed) break;
      if (was || this.pause > SHORTEST_PAUSE) this.dispatchEvent(new Event("lost"));
      await new Promise((resolve) => {
        this.wake = () => resolve(undefined);
        setTimeout(this.wake, this.pause);
      });
      this.pause = Math.min(LONGEST_PAUSE, this.pause * 1.6);
    }
  }

  async #listen() {
    this.abort = new AbortController();
    const headers = authorization();
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    const response = await fetch(address(this.path), { headers, cache: "no-store", signal: this.abort.signal });
    if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
    if (!response.body) return;
    this.connected = true;
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
    let data = "";
    for (const line of event.split("\n")) {
      if (line.startsWith("id: ")) this.lastId = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (data) this.dispatchEvent(new CustomEvent("update", { detail: JSON.parse(data) }));
  }
}
