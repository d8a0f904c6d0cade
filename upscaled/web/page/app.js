// The composition root of the page: builds the parts and connects them.
import { announce } from "./announce.js";
import { ApiError, json } from "./api.js";
import { byId, h, setText, throttled } from "./dom.js";
import { save, saveAll } from "./download.js";
import { Estimate } from "./estimate.js";
import { fileSize } from "./format.js";
import { icon } from "./icons.js";
import * as intake from "./intake.js";
import { Jobs } from "./jobs.js";
import { fetchLimits } from "./limits.js";
import { Options } from "./options.js";
import { Queue } from "./queue.js";
import { isUpload, keyOf, nameOf } from "./row.js";
import { Stage } from "./stage.js";
import { notice, showHealth, toast } from "./status.js";
import { local } from "./storage.js";
import { language, loadLanguage, t } from "./text.js";
import { forget, keepLocal } from "./thumbnails.js";
import { showTokenButton, watchToken } from "./token.js";
import { Uploads } from "./uploads.js";

const LEARN = 5000; // milliseconds between two questions for the models' speeds
const root = document.documentElement;

async function main() {
  await loadLanguage();
  themeButton();
  byId("language").value = language;
  void showHealth();
  const limits = await patiently(fetchLimits);
  byId("docs-link").hidden = !limits.features.docs;
  if (limits.token_required) showTokenButton();
  start(limits, await modelsOf());
}

/**
 * Try until the server answers.
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
async function patiently(work) {
  for (;;) {
    try {
      const done = await work();
      notice("connection", "");
      return done;
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) throw error;
      const told = error instanceof ApiError && error.status < 500; // else a proxy's, while the server is away
      notice("connection", told ? error.message : t("connection.lost"));
      root.classList.add("ready");
      await new Promise((resolve) => setTimeout(resolve, ((told && error.retryAfter) || 2) * 1000));
    }
  }
}

/**
 * The models; where a token is needed, as soon as there is one.
 * @returns {Promise<{models: import("./models.js").Model[], may_import?: boolean}>}
 */
async function modelsOf() {
  watchToken(() => dispatchEvent(new Event("token")));
  for (;;) {
    const given = new Promise((resolve) => addEventListener("token", resolve, { once: true }));
    try {
      return await patiently(() => json("models"));
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      root.classList.add("ready");
      await given;
    }
  }
}

/**
 * @param {import("./limits.js").Limits} limits
 * @param {{models: import("./models.js").Model[], may_import?: boolean}} offered
 */
function start(limits, offered) {
  let models = offered.models;
  const stage = new Stage(limits);
  stage.crop.fitSpeed(models);
  const options = new Options(limits, models);
  const jobs = new Jobs(limits.features.job_lists);
  const uploads = new Uploads(jobs);
  const estimate = new Estimate(stage, options);
  const act = actions(jobs, uploads, limits);
  const queue = new Queue(jobs, uploads, act, limits.delete_after_download);

  byId("files").accept = limits.input_formats.flatMap((format) => [format.media_type, ...format.suffixes]).join(",");
  intake.listen((files, fromFolder) => void stage.add(files, fromFolder));
  const refresh = () => {
    const count = stage.pictures.length;
    byId("send").disabled = count === 0 || !options.complete;
    setText(byId("send"), count ? t("send.some", { n: count }) : t("send.none"));
    estimate.refresh();
  };
  // Each completed job tells the server how quick a model is.
  const learn = throttled(async () => {
    try {
      options.setSpeeds((await json("models")).models);
    } catch {
      return; // the next job's end asks again
    }
    stage.crop.fitSpeed(models);
    estimate.renew();
    refresh();
  }, LEARN);
  stage.addEventListener("change", refresh);
  options.addEventListener("change", refresh);
  byId("options").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const taken = stage.takeAll();
    const fields = options.fields();
    for (const picture of taken) uploads.add(picture, fields);
    if (taken.length) byId("choose").focus({ preventScroll: true });
  });
  byId("preview").addEventListener("click", once(async () => {
    const { showPreview } = await import("./preview.js");
    await showPreview(stage, options, models);
  }));

  byId("add-model").hidden = !offered.may_import;
  byId("add-model").addEventListener("click", once(async () => {
    const { showImports } = await import("./imports.js");
    showImports(models, limits.max_upload_bytes, (found, chosen) => {
      models = found;
      options.setModels(models, chosen);
    });
  }));

  jobs.addEventListener("lost", () => notice("connection", t("connection.lost")));
  jobs.addEventListener("open", () => {
    notice("connection", "");
    void showHealth();
    refresh();
  });
  jobs.addEventListener("submitted", (event) => {
    const { id, picture } = /** @type {CustomEvent} */ (event).detail;
    if (picture.width && picture.url) keepLocal(id, picture.url);
    else URL.revokeObjectURL(picture.url);
  });
  jobs.addEventListener("deleted", (event) => forget(/** @type {CustomEvent} */ (event).detail));
  jobs.addEventListener("ended", (event) => {
    const job = /** @type {CustomEvent} */ (event).detail;
    uploads.placeFreed();
    if (job.status === "completed") learn();
    if (job.status === "completed") announce(t("announce.completed", { name: nameOf(job) }));
    else if (job.status === "failed") announce(t("announce.failed", { name: nameOf(job), error: job.error }));
    else announce(t("announce.cancelled", { name: nameOf(job) }));
  });
  uploads.addEventListener("refused", (event) => {
    const upload = /** @type {CustomEvent} */ (event).detail;
    announce(t("announce.refused", { name: upload.picture.file.name, error: upload.reason }));
  });
  addEventListener("token", () => {
    jobs.start();
    uploads.resume();
    refresh();
    void attempt(async () => {
      byId("add-model").hidden = !(await json("models")).may_import;
    });
  });
  byId("download-all").addEventListener("click", once(async () => {
    const ready = jobs.list.filter((job) => job.status === "completed" && !job.result_gone);
    const ids = ready.map((job) => job.job_id);
    await checked(jobs, ready, () => saveAll(limits.features.job_lists ? null : ids));
    void jobs.saving(ids);
  }));
  byId("clear").addEventListener("click", once(async () => {
    for (const job of [...jobs.list]) {
      const ready = job.status === "completed" && !job.result_gone;
      if (!ready && job.status !== "queued" && job.status !== "processing") await jobs.delete(job.job_id);
    }
  }));

  const labels = () => {
    const formats = limits.input_formats.map((format) => format.label).join(", ");
    setText(byId("accepted"), t("drop.accepted", { formats, size: fileSize(limits.max_upload_bytes) }));
    refresh();
  };
  byId("language").addEventListener("change", async () => {
    await loadLanguage(byId("language").value);
    labelTheme();
    options.relabel();
    stage.relabel();
    labels();
    if (limits.token_required) showTokenButton();
    void showHealth();
    queue.relabel();
  });
  labels();
  root.classList.add("ready");
  jobs.start();
}

/**
 * What the buttons of a row do.
 * @param {Jobs} jobs
 * @param {Uploads} uploads
 * @param {import("./limits.js").Limits} limits
 * @returns {import("./row.js").Act}
 */
function actions(jobs, uploads, limits) {
  const upload = async (/** @type {string} */ name, /** @type {import("./uploads.js").Upload} */ item) => {
    if (name === "again") uploads.again(item);
    else if (name === "details") await (await import("./details.js")).showDetails(item);
    else uploads.remove(item);
  };
  const job = async (/** @type {string} */ name, /** @type {import("./jobs.js").Job} */ item) => {
    const id = item.job_id;
    const saving = async () => {
      await checked(jobs, [item], () => save(id));
      void jobs.saving([id]);
    };
    if (name === "cancel") await jobs.cancel(id);
    else if (name === "delete") await remove(jobs, item);
    else if (name === "retry") await jobs.retry(id);
    else if (name === "save") await saving();
    else if (name === "compare") await (await import("./viewer.js")).showViewer(item, limits, once(saving));
    else if (name === "details") await (await import("./details.js")).showDetails(item);
  };
  /** @type {Set<string>} */
  const busy = new Set();
  return async (name, item) => {
    const key = `${name} ${keyOf(item)}`;
    if (busy.has(key)) return; // a second click, which would make a second job or dialog
    busy.add(key);
    await attempt(() => (isUpload(item) ? upload(name, item) : checked(jobs, [item], () => job(name, item))));
    busy.delete(key);
  };
}

/**
 * Do something with jobs. Where the server refuses because they are not as shown, read them again.
 * @param {Jobs} jobs
 * @param {import("./jobs.js").Job[]} items
 * @param {() => Promise<void>} work
 */
async function checked(jobs, items, work) {
  try {
    await work();
  } catch (error) {
    if (error instanceof ApiError && [404, 409, 410].includes(error.status)) {
      for (const item of items) await jobs.check(item.job_id);
    }
    throw error;
  }
}

/**
 * Delete a job; one whose result was not saved yet after a question.
 * @param {Jobs} jobs
 * @param {import("./jobs.js").Job} job
 */
async function remove(jobs, job) {
  if (job.status === "completed" && !job.result_gone) {
    const sure = await new Promise((resolve) => {
      const dialog = h("dialog", { class: "small", "aria-labelledby": "sure" },
        h("form", { method: "dialog", onsubmit: (/** @type {SubmitEvent} */ event) => resolve(/** @type {any} */ (event.submitter)?.value === "yes") },
          h("h2", { id: "sure" }, t("delete.title", { name: nameOf(job) })),
          h("p", {}, t("delete.text")),
          h("p", { class: "dialog-actions" },
            h("button", { class: "quiet", value: "no" }, t("delete.no")),
            h("button", { class: "primary", value: "yes" }, t("delete.yes")))));
      dialog.addEventListener("close", () => {
        resolve(false);
        dialog.remove();
      });
      document.body.append(dialog);
      dialog.showModal();
    });
    if (!sure) return;
  }
  await jobs.delete(job.job_id);
}

/**
 * Do something that the server may refuse, and show its sentence then.
 * @param {() => Promise<void>} work
 * @returns {Promise<boolean>} whether it was done
 */
async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error instanceof ApiError) toast(error.message);
    else if (error instanceof TypeError && /import|module/i.test(error.message)) toast(t("page.old"));
    else toast(t("connection.lost"));
    return false;
  }
}

/**
 * A listener that does nothing while its work is under way.
 * @param {() => Promise<void>} work
 */
function once(work) {
  let busy = false;
  return async () => {
    if (busy) return false;
    busy = true;
    const done = await attempt(work);
    busy = false;
    return done;
  };
}

const THEMES = ["auto", "light", "dark"];

function themeButton() {
  labelTheme();
  byId("theme-button").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    local.set("upscaled.theme", next);
    labelTheme();
  });
}

function labelTheme() {
  const theme = /** @type {"auto"|"light"|"dark"} */ (root.dataset.theme ?? "auto");
  byId("theme-button").replaceChildren(icon(theme), h("span", { class: "unseen" }, t(`theme.${theme}`)));
  byId("theme-button").title = t(`theme.${theme}`);
}

void main();
