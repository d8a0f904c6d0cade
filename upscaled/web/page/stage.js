// The pictures that were chosen and not sent yet: a large view of one, and a strip of all.
import { CropFrame } from "./crop.js";
import { byId, h, setText } from "./dom.js";
import { dimensions, fileSize } from "./format.js";
import { icon } from "./icons.js";
import { objection } from "./intake.js";
import { t } from "./text.js";

/**
 * @typedef {object} Picture
 * @property {File} file
 * @property {string} url
 * @property {number} width as seen, 0 where the browser cannot read the picture
 * @property {number} height
 */

const MOST_REFUSALS = 5;
const MOST_SHOWN = 60; // pictures in the strip; all are sent

export class Stage extends EventTarget {
  /** @param {import("./limits.js").Limits} limits */
  constructor(limits) {
    super();
    this.limits = limits;
    /** @type {Picture[]} */
    this.pictures = [];
    /** @type {Picture | null} */
    this.selected = null;
    this.crop = new CropFrame(limits.preview?.max_input_pixels ?? 0);
    byId("canvas").append(this.crop.element);
  }

  /**
   * Take files in; those that would be refused are named below the stage.
   * @param {File[]} files
   * @param {boolean} fromFolder then files that are no pictures are left out without a word
   */
  async add(files, fromFolder) {
    const refused = [];
    const taken = [];
    for (const file of files) {
      const reason = objection(file, this.limits);
      if (!reason) taken.push(file);
      else if (!fromFolder) refused.push(reason);
    }
    if (fromFolder && !taken.length) refused.push(t("refused.folder"));
    this.#showRefused(refused);
    for (const file of taken) {
      const picture = await read(file);
      const megapixels = (picture.width * picture.height) / 1e6;
      if (megapixels > this.limits.max_input_megapixels) {
        URL.revokeObjectURL(picture.url);
        refused.push(t("refused.pixels", {
          name: file.name, megapixels: Math.ceil(megapixels), most: this.limits.max_input_megapixels,
        }));
        this.#showRefused(refused);
        continue;
      }
      this.pictures.push(picture);
      if (!this.selected) this.#select(picture);
      // A folder may have thousands; what is not shown need not be drawn each time.
      if (this.pictures.length <= MOST_SHOWN || picture.file === taken.at(-1)) this.#strip();
      this.dispatchEvent(new Event("change"));
    }
  }

  /** Take all pictures out, to be sent. */
  takeAll() {
    const taken = this.pictures;
    this.pictures = [];
    this.#select(null);
    this.#strip();
    this.#showRefused([]);
    this.dispatchEvent(new Event("change"));
    return taken;
  }

  /** Write the texts anew, after the language changed. */
  relabel() {
    this.#strip();
    this.#hint();
  }

  /** @param {Picture | null} picture */
  #select(picture) {
    this.selected = picture;
    byId("drop").hidden = picture !== null;
    byId("picked").hidden = picture === null;
    this.crop.show(picture);
    this.#hint();
  }

  #hint() {
    const readable = Boolean(this.selected?.width);
    byId("preview").hidden = !this.limits.preview;
    byId("crop-bar").hidden = !this.limits.preview && readable;
    setText(byId("crop-hint"), readable && this.limits.preview ? t("crop.hint") : this.selected && !readable ? t("crop.unreadable") : "");
  }

  /** @param {Picture} picture */
  #remove(picture) {
    const index = this.pictures.indexOf(picture);
    this.pictures.splice(index, 1);
    URL.revokeObjectURL(picture.url);
    if (this.selected === picture) this.#select(this.pictures[Math.min(index, this.pictures.length - 1)] ?? null);
    this.#strip();
    this.dispatchEvent(new Event("change"));
    const next = byId("strip").querySelectorAll(".remove")[index] ?? byId("choose");
    /** @type {HTMLElement} */ (next).focus();
  }

  #strip() {
    byId("strip").replaceChildren(...[
      ...this.pictures.slice(0, MOST_SHOWN).map((picture) => {
        const details = [picture.width ? dimensions(picture) : "", fileSize(picture.file.size)].filter(Boolean).join(" · ");
        return h("li", { class: picture === this.selected ? "chosen" : "" },
          h("button", {
            type: "button", class: "strip-pick", title: `${picture.file.name} · ${details}`,
            "aria-pressed": String(picture === this.selected),
            "aria-label": t("strip.show", { name: picture.file.name, details }),
            onclick: () => {
              this.#select(picture);
              this.#strip();
              this.dispatchEvent(new Event("change"));
              /** @type {HTMLElement | null} */ (byId("strip").querySelector("[aria-pressed=true]"))?.focus();
            },
          }, picture.width ? h("img", { loading: "lazy", decoding: "async", src: picture.url, alt: "" }) : icon("picture")),
          h("button", {
            type: "button", class: "remove", "aria-label": t("strip.remove", { name: picture.file.name }),
            onclick: () => this.#remove(picture),
          }, icon("cancel")));
      }),
      this.pictures.length > MOST_SHOWN && h("li", { class: "strip-rest" }, t("strip.rest", { n: this.pictures.length - MOST_SHOWN })),
      h("li", {}, h("button", {
        type: "button", class: "strip-add", "aria-label": t("strip.add"), onclick: () => byId("choose").click(),
      }, icon("plus"))),
    ].filter(Boolean));
  }

  /** @param {string[]} sentences */
  #showRefused(sentences) {
    const shown = sentences.slice(0, MOST_REFUSALS);
    if (sentences.length > shown.length) shown.push(t("refused.more", { n: sentences.length - shown.length }));
    byId("refused").replaceChildren(...shown.map((sentence) => h("li", {}, sentence)));
  }
}

/**
 * Read a file's size in pixels. The browser need not decode the whole picture for that.
 * @param {File} file
 * @returns {Promise<Picture>}
 */
async function read(file) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  await new Promise((resolve) => {
    image.onload = image.onerror = resolve;
    image.src = url;
  });
  return { file, url, width: image.naturalWidth, height: image.naturalHeight };
}
