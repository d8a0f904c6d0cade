// How a job went: its tries, and for a result its receipt; why an upload does not go on.
import { ApiError, json } from "./api.js";
import { closesOnBackdrop, h } from "./dom.js";
import { duration } from "./format.js";
import { isUpload, nameOf, stateText } from "./row.js";
import { t } from "./text.js";

/** @param {import("./jobs.js").Job | import("./uploads.js").Upload} item */
export async function showDetails(item) {
  if (isUpload(item)) {
    show(item.picture.file.name, h("p", {}, stateText(item)));
    return;
  }
  let receipt = null;
  if (item.status === "completed") {
    try {
      receipt = await json(`receipt/${item.job_id}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // a record of an earlier version has none
    }
  }
  show(nameOf(item), h("p", { class: "hint" }, t("details.title")),
    h("dl", { class: "facts" }, ...facts(item, receipt).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

/**
 * @param {string} title
 * @param {...HTMLElement} content
 */
function show(title, ...content) {
  const dialog = h("dialog", { class: "small", "aria-labelledby": "details-title" },
    h("h2", { id: "details-title" }, title), ...content,
    h("p", { class: "dialog-actions" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, t("view.close"))));
  closesOnBackdrop(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {import("./jobs.js").Job} job
 * @param {any} receipt
 * @returns {[string, any][]}
 */
function facts(job, receipt) {
  /** @type {[string, any][]} */
  const found = [];
  if (job.error) found.push([t("details.error"), job.error]);
  found.push([t("details.model"), job.model_name]);
  if (receipt) {
    found.push([t("details.license"), receipt.model.license ?? t("model.unlicensed")]);
    found.push([t("details.device"), receipt.engine.device_name || receipt.engine.device]);
    found.push([t("details.library"), receipt.engine.library ?? receipt.engine.name]);
    found.push([t("details.metadata"), receipt.metadata.kept.join(", ") || t("details.none")]);
    if (receipt.metadata.lost.length) found.push([t("details.lost"), receipt.metadata.lost.join(", ")]);
    found.push([t("details.score"), t("details.passed", { score: receipt.verification_score })]);
  }
  if (job.duration_seconds !== undefined) found.push([t("details.time"), duration(job.duration_seconds)]);
  if (job.attempts?.length) {
    found.push([t("details.attempts"), h("ol", {}, ...job.attempts.map((attempt) => h("li", {}, t(
      attempt.tile_size ? "details.attempt" : "details.attempt.auto",
      { engine: attempt.engine, device: attempt.device, tile: attempt.tile_size, outcome: attempt.outcome },
    ))))]);
  }
  found.push([t("details.id"), h("code", {}, job.job_id)]);
  return found;
}
