// The list of uploads and jobs. Only the rows in view exist, so that thousands cost nothing.
import { byId, setText } from "./dom.js";
import { keyOf, Row } from "./row.js";
import { t } from "./text.js";

const AROUND = 6; // rows above and below the view

export class Queue {
  /**
   * @param {import("./jobs.js").Jobs} jobs
   * @param {import("./uploads.js").Uploads} uploads
   * @param {import("./row.js").Act} act
   * @param {boolean} deletes whether the server deletes a result after its download
   */
  constructor(jobs, uploads, act, deletes) {
    this.jobs = jobs;
    this.uploads = uploads;
    this.act = act;
    this.deletes = deletes;
    this.holder = byId("rows");
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.scheduled = false;
    const later = () => this.refresh();
    jobs.addEventListener("change", later);
    uploads.addEventListener("change", later);
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later); // also where only the window's height changes
    new ResizeObserver(later).observe(document.body);
    setInterval(() => {
      if (document.visibilityState === "visible") for (const row of this.rows.values()) row.tick();
    }, 1000);
  }

  /** Draw with the next frame. */
  refresh() {
    if (this.scheduled) return;
    this.scheduled = true;
    // A hidden tab gets no frames; it is drawn when it shows again.
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.#draw();
    });
  }

  /** Draw all rows anew, after the language changed. */
  relabel() {
    this.refresh();
  }

  #draw() {
    const uploads = this.uploads.list;
    const jobs = this.jobs.list;
    const count = uploads.length + jobs.length;
    const height = parseFloat(getComputedStyle(this.holder).getPropertyValue("--row")) || 84;
    this.holder.style.height = `${count * height}px`;
    const top = this.holder.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - AROUND);
    const last = Math.min(count, Math.ceil((innerHeight - top) / height) + AROUND);
    const wanted = new Set();
    for (let index = first; index < last; index += 1) {
      const item = index < uploads.length ? uploads[index] : jobs[index - uploads.length];
      const key = keyOf(item);
      wanted.add(key);
      let row = this.rows.get(key);
      if (!row) {
        row = new Row(this.act);
        this.rows.set(key, row);
      }
      if (row.item !== item || "picture" in item || row.lang !== document.documentElement.lang) row.show(item);
      row.lang = document.documentElement.lang;
      row.element.style.transform = `translateY(${index * height}px)`;
      row.element.setAttribute("aria-posinset", String(index + 1));
      row.element.setAttribute("aria-setsize", String(this.jobs.cursor ? -1 : count));
      this.#place(row.element, index);
    }
    /** @type {number | null} */
    let lost = null;
    for (const [key, row] of this.rows) {
      // The row that has the focus stays, or the focus would be lost.
      const focused = row.element.contains(document.activeElement) && [...uploads, ...jobs].some((item) => keyOf(item) === key);
      if (wanted.has(key) || focused) continue;
      if (row.element.contains(document.activeElement)) lost = Number(row.element.dataset.index);
      row.element.remove();
      this.rows.delete(key);
    }
    if (lost !== null) this.#focus(lost);
    byId("empty").hidden = count > 0 || !this.jobs.loaded;
    if (last >= count - AROUND) void this.jobs.more();
    this.#head(uploads.filter((upload) => upload.state !== "refused").length, jobs);
  }

  /**
   * Keep the rows in the document in their order, for screen readers and the Tab key.
   * @param {HTMLElement} element
   * @param {number} index
   */
  #place(element, index) {
    element.dataset.index = String(index);
    const next = [...this.holder.children].find((other) => other !== element && Number(/** @type {HTMLElement} */ (other).dataset.index) > index) ?? null;
    if (element.parentNode !== this.holder || element.nextSibling !== next) {
      const focused = /** @type {HTMLElement | null} */ (element.contains(document.activeElement) ? document.activeElement : null);
      this.holder.insertBefore(element, next);
      focused?.focus({ preventScroll: true });
    }
  }

  /**
   * Give the focus to what took the place of a row that had it.
   * @param {number} index
   */
  #focus(index) {
    const rows = /** @type {HTMLElement[]} */ ([...this.holder.children]);
    const row = rows.find((one) => Number(one.dataset.index) >= index) ?? rows.at(-1);
    /** @type {HTMLElement} */ (row?.querySelector("button") ?? byId("queue")).focus({ preventScroll: true });
  }

  /**
   * @param {number} uploading
   * @param {import("./jobs.js").Job[]} jobs
   */
  #head(uploading, jobs) {
    let active = uploading;
    let ready = 0;
    let ended = 0;
    for (const job of jobs) {
      if (job.status === "queued" || job.status === "processing") active += 1;
      else {
        ended += 1;
        if (job.status === "completed" && !job.result_gone) ready += 1;
      }
    }
    const parts = [];
    if (active) parts.push(t("queue.active", { n: active }));
    if (ready) parts.push(t("queue.ready", { n: ready }));
    setText(byId("queue-hint"), parts.join(" · "));
    setText(byId("queue-note"), ready && this.deletes ? t("queue.deleted") : "");
    for (const [id, hidden] of /** @type {[string, boolean][]} */ ([["download-all", ready < 2], ["clear", ended - ready < 1]])) {
      if (hidden && document.activeElement === byId(id)) byId("queue").focus({ preventScroll: true });
      byId(id).hidden = hidden;
    }
    // Of older jobs, which the list does not have yet, nobody knows how many are ready.
    setText(byId("download-all"), this.jobs.cursor ? t("queue.everything") : t("queue.download", { n: ready }));
  }
}
