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
 * @property {string} url of what is shown of it; "" while a large one has nothing to show yet
 * @property {boolean} large whether that is a stand-in with fewer pixels
 * @property {number} width as seen, 0 where the browser cannot read the picture
 * @property {number} height
 */

const MOST_PIXELS = 16e6; // of a picture that is shown as it is; decoded they take 64 MB
const HEAVY = 16e6; // bytes of a file that is better not read whole to learn its size in pixels
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
    /** @type {Map<Picture, HTMLElement>} buttons of the strip */
    this.picks = new Map();
    this.reducing = false;
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
    void this.#reduce();
  }

  /** Make stand-ins of the large pictures that are shown, one at a time: each takes much memory. */
  async #reduce() {
    if (this.reducing) return;
    this.reducing = true;
    const next = () => [this.selected, ...this.pictures.slice(0, MOST_SHOWN)].find((one) => one?.large && !one.url);
    for (let picture = next(); picture; picture = next()) {
      const shown = await reduced(picture);
      if (!this.pictures.includes(picture)) continue;
      picture.url = URL.createObjectURL(shown);
      this.picks.get(picture)?.replaceChildren(thumb(picture));
      if (this.selected !== picture) continue;
      this.crop.show(picture);
      this.#hint();
    }
    this.reducing = false;
  }

  #hint() {
    const readable = Boolean(this.selected?.width);
    const waiting = readable && !this.selected?.url;
    byId("preview").hidden = !this.limits.preview;
    byId("preview").disabled = waiting;
    byId("crop-bar").hidden = !this.limits.preview && readable && !waiting;
    setText(byId("crop-hint"), waiting ? t("crop.large") : readable && this.limits.preview ? t("crop.hint") : this.selected && !readable ? t("crop.unreadable") : "");
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
    this.picks.clear();
    byId("strip").replaceChildren(...[
      ...this.pictures.slice(0, MOST_SHOWN).map((picture) => {
        const details = [picture.width ? dimensions(picture) : "", fileSize(picture.file.size)].filter(Boolean).join(" · ");
        const pick = h("button", {
          type: "button", class: "strip-pick", title: `${picture.file.name} · ${details}`,
          "aria-pressed": String(picture === this.selected),
          "aria-label": t("strip.show", { name: picture.file.name, details }),
          onclick: () => {
            this.#select(picture);
            this.#strip();
            this.dispatchEvent(new Event("change"));
            this.picks.get(picture)?.focus();
          },
        }, thumb(picture));
        this.picks.set(picture, pick);
        return h("li", { class: picture === this.selected ? "chosen" : "" }, pick,
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
    void this.#reduce();
  }

  /** @param {string[]} sentences */
  #showRefused(sentences) {
    const shown = sentences.slice(0, MOST_REFUSALS);
    if (sentences.length > shown.length) shown.push(t("refused.more", { n: sentences.length - shown.length }));
    byId("refused").replaceChildren(...shown.map((sentence) => h("li", {}, sentence)));
  }
}

/** @param {Picture} picture */
function thumb(picture) {
  return picture.width && picture.url ? h("img", { loading: "lazy", decoding: "async", src: picture.url, alt: "" }) : icon("picture");
}

/**
 * What is shown of a large picture; the picture itself where no stand-in can be made.
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
async function reduced(picture) {
  try {
    return await (await import("./large.js")).standIn(picture.file, picture);
  } catch {
    return picture.file;
  }
}

/**
 * Read a file's size in pixels. The browser need not decode the whole picture for that.
 * @param {File} file
 * @returns {Promise<Picture>}
 */
async function read(file) {
  const known = file.size > HEAVY ? await import("./large.js").then((large) => large.sizeOf(file)).catch(() => null) : null;
  if (known && known.width * known.height > MOST_PIXELS) return { file, url: "", large: true, width: known.width, height: known.height };
  const url = URL.createObjectURL(file);
  const image = new Image();
  await new Promise((resolve) => {
    image.onload = image.onerror = resolve;
    image.src = url;
  });
  const { naturalWidth: width, naturalHeight: height } = image;
  if (width * height <= MOST_PIXELS) return { file, url, large: false, width, height };
  image.removeAttribute("src");
  URL.revokeObjectURL(url);
  return { file, url: "", large: true, width, height };
}
