// One row of the list: an upload on its way, or a job.
import { h, setText } from "./dom.js";
import { dimensions, duration, fileSize, moment, percent } from "./format.js";
import { icon } from "./icons.js";
import { ACTIVE } from "./jobs.js";
import { t } from "./text.js";
import { thumbnail } from "./thumbnails.js";

/**
 * @typedef {import("./jobs.js").Job} Job
 * @typedef {import("./uploads.js").Upload} Upload
 * @typedef {(action: string, item: Job | Upload) => void} Act
 */

/**
 * @param {Job | Upload} item
 * @returns {item is Upload}
 */
export function isUpload(item) {
  return "picture" in item;
}

/** @param {Job | Upload} item */
export function keyOf(item) {
  return isUpload(item) ? item.key : item.job_id;
}

/** @param {Job} job */
export function nameOf(job) {
  return job.filename || job.model_name;
}

export class Row {
  /** @param {Act} act */
  constructor(act) {
    this.act = act;
    /** @type {Job | Upload | null} */
    this.item = null;
    this.image = h("img", { alt: "", decoding: "async" });
    this.thumb = h("div", { class: "thumb" }, icon("picture"), this.image);
    this.name = h("p", { class: "row-name" });
    this.facts = h("p", { class: "row-facts" });
    this.state = h("p", { class: "row-state" });
    this.bar = h("progress", { max: 100, class: "bar" });
    this.actions = h("div", { class: "row-actions" });
    this.element = h("li", { class: "row" }, this.thumb,
      h("div", { class: "row-text" }, this.name, this.facts), h("div", { class: "row-progress" }, this.state, this.bar), this.actions);
    this.shownActions = "";
    this.lang = "";
    this.shownThumb = "";
  }

  /** @param {Job | Upload} item */
  show(item) {
    this.item = item;
    this.element.dataset.key = keyOf(item);
    if (isUpload(item)) this.#upload(item);
    else this.#job(item);
  }

  /** Write anew what changes with time. */
  tick() {
    if (this.item) setText(this.state, stateText(this.item));
  }

  /** @param {Upload} upload */
  #upload(upload) {
    const { file, width } = upload.picture;
    this.name.title = file.name;
    setText(this.name, file.name);
    setText(this.facts, [width ? dimensions(upload.picture) : "", fileSize(file.size), upload.fields.model_name].filter(Boolean).join(" · "));
    this.#state(upload.state, upload.state === "refused" ? null : upload.sent * 100);
    this.#thumb(width ? upload.picture.url : "");
    this.#actions(upload.state === "refused" || upload.state === "paused" ? ["details", "again", "remove"] : ["remove"]);
  }

  /** @param {Job} job */
  #job(job) {
    this.name.title = nameOf(job);
    setText(this.name, nameOf(job));
    const size = job.input_size && job.output_size ? `${dimensions(job.input_size)} → ${dimensions(job.output_size)}`
      : job.input_size ? dimensions(job.input_size) : "";
    setText(this.facts, [size, ACTIVE.has(job.status) && job.scale ? `${job.scale}×` : "", job.model_name, job.file_size_bytes ? fileSize(job.file_size_bytes) : ""].filter(Boolean).join(" · "));
    this.#state(job.result_gone ? "gone" : job.status, ACTIVE.has(job.status) ? job.progress ?? 0 : null);
    const key = `${job.job_id} ${job.status} ${job.result_gone}`;
    if (this.shownThumb !== key) {
      this.shownThumb = key;
      void thumbnail(job).then((url) => {
        if (this.shownThumb === key) this.#thumb(url, key);
      });
    }
    /** @type {Record<string, string[]>} */
    const actions = { queued: ["cancel"], processing: job.attempts?.length ? ["details", "cancel"] : ["cancel"], failed: ["details", "retry", "delete"], cancelled: ["retry", "delete"] };
    this.#actions(actions[job.status] ?? (job.result_gone ? ["details", "delete"] : ["compare", "save", "details", "delete"]));
  }

  /**
   * @param {string} state
   * @param {number | null} progress
   */
  #state(state, progress) {
    this.element.dataset.state = state;
    this.bar.hidden = progress === null;
    if (progress !== null) this.bar.value = progress;
    this.bar.setAttribute("aria-label", t("row.progress", { name: this.name.textContent ?? "" }));
    this.tick();
    this.state.title = stateText(/** @type {any} */ (this.item));
  }

  /**
   * @param {string} url
   * @param {string} key
   */
  #thumb(url, key = url) {
    this.shownThumb = key;
    this.image.hidden = !url;
    if (!url) this.image.removeAttribute("src");
    else if (this.image.src !== url) this.image.src = url;
  }

  /** @param {string[]} names */
  #actions(names) {
    const key = `${names} ${this.name.textContent} ${document.documentElement.lang}`;
    if (key === this.shownActions) return;
    this.shownActions = key;
    const focused = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(...names.map((name) => {
      const label = t(`action.${name}`);
      const main = name === "compare" || name === "save";
      return h("button", {
        type: "button", class: main ? `secondary act-${name}` : `iconic act-${name}`, title: main ? "" : label,
        "aria-label": t("row.action", { action: label, name: this.name.textContent ?? "" }),
        onclick: () => this.item && this.act(name, this.item),
      }, icon(/** @type {any} */ (ICONS[name] ?? name)), main && h("span", {}, label));
    }));
    if (focused) this.actions.querySelector("button")?.focus();
  }
}

/** @type {Record<string, string>} */
const ICONS = { again: "retry", details: "info", remove: "cancel", save: "download" };

/** @param {Job | Upload} item */
export function stateText(item) {
  return isUpload(item) ? uploadText(item) : jobText(item);
}

/** @param {Upload} upload */
function uploadText(upload) {
  const seconds = (upload.resumes - Date.now()) / 1000;
  if (upload.state === "waiting") return t("upload.waiting");
  if (upload.state === "sending") return upload.sent < 1 ? t("upload.sending", { percent: percent(upload.sent) }) : t("upload.checking");
  if (upload.state === "paused" && Number.isFinite(seconds)) return t("upload.paused", { reason: upload.reason, time: duration(Math.max(1, seconds)) });
  return upload.reason;
}

/** @param {Job} job */
function jobText(job) {
  const parts = [];
  if (job.status === "queued") parts.push(job.queue_position ? t("state.position", { n: job.queue_position }) : t("state.queued"));
  else if (job.status === "processing") {
    parts.push(`${t(`stage.${job.stage ?? "upscaling"}`)} ${percent((job.progress ?? 0) / 100)}`);
    if ((job.attempt ?? 1) > 1) parts.push(attemptText(job));
  } else if (job.status === "completed") {
    if (job.result_gone) return t(`gone.${job.result_gone}`);
    parts.push(t("state.completed", { time: duration(job.duration_seconds ?? 0) }));
    if (job.expires) parts.push(t("state.expires", { when: moment(job.expires) }));
  } else if (job.status === "failed") return t("state.failed", { error: job.error ?? "" });
  else return t("state.cancelled");
  if (ACTIVE.has(job.status) && job.ready) {
    const left = (job.ready - Date.now()) / 1000;
    parts.push(left > 1 ? t("state.left", { time: duration(left) }) : t("state.soon"));
  }
  return parts.join(" · ");
}

/** @param {Job} job */
function attemptText(job) {
  const last = job.attempts?.at(-1);
  const ordinal = t("attempt.number", { n: job.attempt ?? 1 });
  return last ? t("attempt.because", { attempt: ordinal, reason: last.outcome }) : ordinal;
}
