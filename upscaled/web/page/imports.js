// Models of one's own: an administrator adds published files and deletes them again.
import { announce } from "./announce.js";
import { ApiError, json, request, send } from "./api.js";
import { closesOnBackdrop, h, setText } from "./dom.js";
import { fileSize } from "./format.js";
import { t } from "./text.js";

const ENDINGS = ".pth,.pt,.safetensors";
const FIELDS = /** @type {const} */ (["name", "license", "description"]);
const LOOK = 20; // seconds that an answer about an import may wait

/**
 * @param {import("./models.js").Model[]} models
 * @param {number} mostBytes of a file
 * @param {(models: import("./models.js").Model[], chosen: string) => void} onChange
 */
export function showImports(models, mostBytes, onChange) {
  const abort = new AbortController();
  const file = h("input", { type: "file", id: "import-file", accept: ENDINGS, required: true, "aria-describedby": "import-problem import-hint" });
  const fields = FIELDS.map((name) => h("input", { type: "text", id: `import-${name}`, maxLength: 200, autocomplete: "off" }));
  const problem = h("p", { class: "problem", id: "import-problem", role: "alert" });
  const progress = h("p", { class: "hint", id: "import-progress", role: "status" });
  const send = h("button", { type: "submit", class: "primary", id: "import-send" }, t("import.send"));
  const own = h("ul", { class: "own-models", id: "own-models" });

  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const chosen = file.files[0];
    setText(problem, chosen.size > mostBytes ? t("refused.size", { name: chosen.name, size: fileSize(chosen.size), most: fileSize(mostBytes) }) : "");
    if (chosen.size > mostBytes) return;
    const form = new FormData();
    FIELDS.forEach((name, at) => form.append(name, fields[at].value.trim()));
    form.append("file", chosen);
    send.disabled = true;
    try {
      const made = await importing(form, progress, abort.signal);
      const text = t("import.done", { name: made.name });
      setText(progress, text);
      announce(text);
      dialog.querySelector("form").reset();
      await refresh(made.name);
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") return;
      setText(progress, "");
      setText(problem, sentence(error));
      file.focus();
    } finally {
      send.disabled = false;
    }
  };

  const refresh = async (/** @type {string} */ chosen) => {
    models = (await json("models")).models;
    list();
    onChange(models, chosen);
  };

  const list = () => own.replaceChildren(...models.filter((model) => model.imported).map((model) => h("li", {},
    h("span", {}, model.name),
    h("button", {
      type: "button", class: "quiet", "aria-label": t("import.delete.name", { name: model.name }),
      onclick: async () => {
        try {
          await request(`models/${encodeURIComponent(model.name)}`, { method: "DELETE" });
          announce(t("import.deleted", { name: model.name }));
          await refresh("");
          file.focus();
        } catch (error) {
          setText(problem, sentence(error));
        }
      },
    }, t("import.delete")))));

  const labelled = (/** @type {string} */ name, /** @type {HTMLElement} */ field) =>
    h("label", { class: "field" }, h("span", {}, t(`import.${name}`)), field);
  const dialog = h("dialog", { class: "small", "aria-labelledby": "import-title" },
    h("form", { onsubmit: submit },
      h("h2", { id: "import-title" }, t("import.title")),
      h("p", { id: "import-hint" }, t("import.text")),
      labelled("file", file),
      ...FIELDS.map((name, at) => labelled(name, fields[at])),
      problem, progress, own,
      h("p", { class: "dialog-actions" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("import.close")),
        send)));
  closesOnBackdrop(dialog);
  dialog.addEventListener("close", () => {
    abort.abort();
    dialog.remove();
  });
  list();
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Send a file and follow its import to the end.
 * @param {FormData} form
 * @param {HTMLElement} progress
 * @param {AbortSignal} signal
 * @returns {Promise<{name: string}>}
 */
async function importing(form, progress, signal) {
  let state = await send("POST", "models", form, {}, (sent, total) => {
    setText(progress, t("import.sending", { percent: Math.floor((100 * sent) / total) }));
  }, signal);
  const address = `models/imports/${state.import_id}`;
  while (state.status !== "completed") {
    if (state.status === "failed") throw new ApiError(state.error, state.code, 422);
    setText(progress, t(state.status === "queued" ? "import.queued" : "import.checking"));
    state = await json(`${address}?wait=${LOOK}`, { signal });
  }
  return state;
}

/** @param {unknown} error */
function sentence(error) {
  return error instanceof ApiError ? error.message : t("connection.lost");
}
