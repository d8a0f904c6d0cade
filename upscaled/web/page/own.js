// The ids of the jobs that this browser sent, for servers that list no jobs. All tabs share them.
import { local } from "./storage.js";

// Each id is an entry of its own: tabs write at the same time, and a list in one entry would lose
// what another tab added between reading and writing.
const PREFIX = "upscaled.job.";
const MOST = 200;
const ID = /^\d{19}$/;

/** Events: `added` and `removed` with the id as `detail`, when another tab did it. */
export class OwnJobs extends EventTarget {
  constructor() {
    super();
    addEventListener("storage", (event) => {
      const id = event.key?.startsWith(PREFIX) ? event.key.slice(PREFIX.length) : "";
      if (!ID.test(id)) return;
      this.dispatchEvent(new CustomEvent(event.newValue === null ? "removed" : "added", { detail: id }));
    });
  }

  /** @returns {string[]} the newest first */
  get ids() {
    const times = local.keys().filter((key) => key.startsWith(PREFIX) && ID.test(key.slice(PREFIX.length)))
      .map((key) => /** @type {[string, number]} */ ([key.slice(PREFIX.length), Number(local.get(key)) || 0]));
    return times.sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? 1 : -1)).map(([id]) => id);
  }

  /** @param {string} id */
  add(id) {
    if (local.get(PREFIX + id) === null) local.set(PREFIX + id, String(Date.now()));
    for (const old of this.ids.slice(MOST)) this.remove(old);
  }

  /** @param {string} id */
  remove(id) {
    local.remove(PREFIX + id);
  }
}
