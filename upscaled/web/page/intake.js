// Ways for pictures to come in: drop, paste, choose, a folder. What is surely refused stays out.
import { byId } from "./dom.js";
import { fileSize } from "./format.js";
import { t } from "./text.js";

/**
 * @typedef {import("./limits.js").Limits} Limits
 */

/**
 * Why the server would refuse a file, as far as its name and length tell; "" if it may pass.
 * @param {File} file
 * @param {Limits} limits
 */
export function objection(file, limits) {
  const name = file.name.toLowerCase();
  const known = limits.input_formats.some(
    (format) => format.media_type === file.type || format.suffixes.some((suffix) => name.endsWith(suffix)),
  );
  const formats = limits.input_formats.map((format) => format.label).join(", ");
  if (!known) return t("refused.type", { name: file.name, formats });
  if (file.size === 0) return t("refused.empty", { name: file.name });
  if (file.size > limits.max_upload_bytes) {
    return t("refused.size", { name: file.name, size: fileSize(file.size), most: fileSize(limits.max_upload_bytes) });
  }
  return "";
}

/**
 * Listen to all ways in.
 * @param {(files: File[], fromFolder: boolean) => void} onFiles
 */
export function listen(onFiles) {
  for (const [button, input] of [["choose", "files"], ["choose-folder", "folder"]]) {
    const field = /** @type {HTMLInputElement} */ (byId(input));
    byId(button).addEventListener("click", () => field.click());
    field.addEventListener("change", () => {
      onFiles([...(field.files ?? [])], input === "folder");
      field.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    onFiles(files, false);
  });
  listenToDrops(onFiles);
}

/** @param {(files: File[], fromFolder: boolean) => void} onFiles */
function listenToDrops(onFiles) {
  const veil = byId("veil");
  let depth = 0;
  /** @param {DragEvent} event */
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth -= 1;
    if (depth <= 0) veil.hidden = true;
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    // The entries must be taken before the first await; afterwards they are gone.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const folder = entries.some((entry) => entry?.isDirectory);
    if (!folder) return onFiles([...event.dataTransfer.files], false);
    /** @type {File[]} */
    const files = [];
    for (const entry of entries) await collect(/** @type {FileSystemEntry} */ (entry), files);
    onFiles(files, true);
  });
}

/**
 * @param {FileSystemEntry} entry
 * @param {File[]} files
 */
async function collect(entry, files) {
  try {
    if (entry.isFile) {
      files.push(await new Promise((resolve, reject) => /** @type {any} */ (entry).file(resolve, reject)));
      return;
    }
    const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
    for (;;) {
      // A reader gives up to 100 entries at a time.
      const batch = /** @type {FileSystemEntry[]} */ (await new Promise((resolve, reject) => reader.readEntries(resolve, reject)));
      if (!batch.length) return;
      for (const child of batch) await collect(child, files);
    }
  } catch { /* one that may not be read, or is gone: the others are taken */ }
}
