// The form that says how pictures are upscaled. The choice is remembered in this browser.
import { byId, h, setText } from "./dom.js";
import { ModelCards } from "./models.js";
import { local } from "./storage.js";
import { t } from "./text.js";

const KEY = "upscaled.options";

/** @typedef {Record<string, string>} Fields fields of the API */

export class Options extends EventTarget {
  /**
   * @param {import("./limits.js").Limits} limits
   * @param {import("./models.js").Model[]} models
   */
  constructor(limits, models) {
    super();
    this.limits = limits;
    this.cards = new ModelCards(byId("models"), models);
    this.form = /** @type {HTMLFormElement} */ (byId("options"));
    this.#build();
    this.#restore();
    this.#adapt();
    this.form.addEventListener("input", () => this.#changed());
    this.form.addEventListener("change", () => this.#changed());
  }

  /** @returns {string} */
  get model() {
    return this.#radio("model");
  }

  /** @param {string} name */
  chooseModel(name) {
    this.#check("model", name);
    this.#changed();
  }

  /**
   * Offer other models than before; the chosen one stays chosen where it is still there.
   * @param {import("./models.js").Model[]} models
   * @param {string} chosen name of the one to choose; "": as before
   */
  setModels(models, chosen) {
    const before = this.model;
    this.cards.models = models;
    const there = models.some((model) => model.name === (chosen || before));
    this.cards.render(there ? chosen || before : this.limits.default_model);
    this.#changed();
  }

  /**
   * Take over how quick the models are by now; nothing else about them changes.
   * @param {import("./models.js").Model[]} models
   */
  setSpeeds(models) {
    for (const { name, speed } of models) {
      const known = this.cards.models.find((model) => model.name === name);
      if (known) known.speed = speed;
    }
  }

  get tta() {
    return byId("tta").checked;
  }

  /**
   * How much larger a picture becomes along each side.
   * @param {{width: number, height: number} | null} picture
   */
  enlargement(picture) {
    const scale = this.#radio("scale");
    if (scale !== "size") return Number(scale);
    const { width, height } = this.#target();
    if (!picture?.width) return this.limits.default_scale;
    const factors = [width / picture.width, height / picture.height].filter((factor) => factor > 0);
    return factors.length ? Math.min(...factors) : this.limits.default_scale;
  }

  /** Whether the form says enough to send. */
  get complete() {
    const { width, height } = this.#target();
    return this.#radio("scale") !== "size" || width > 0 || height > 0;
  }

  /** @returns {Fields} */
  fields() {
    /** @type {Fields} */
    const fields = { model_name: this.model };
    const scale = this.#radio("scale");
    if (scale === "size") {
      const { width, height } = this.#target();
      if (width) fields.width = String(width);
      if (height) fields.height = String(height);
    } else fields.scale = scale;
    const format = byId("format").value;
    if (format) fields.format = format;
    if (this.#lossless) fields.lossless = "true";
    else if (this.#hasQuality) fields.quality = byId("quality").value;
    if (this.tta) fields.tta = "true";
    if (byId("fast").checked) fields.precision = "fast";
    if (!byId("metadata").checked) fields.keep_metadata = "false";
    if (format === "jpg") fields.background = byId("background").value;
    return fields;
  }

  /** Write the texts anew, after the language changed. */
  relabel() {
    const values = this.#values();
    this.cards.render(this.model);
    this.#build();
    this.#apply(values);
    this.#adapt();
  }

  get #hasQuality() {
    const format = this.limits.output_formats.find((one) => one.name === byId("format").value);
    return Boolean(format?.quality);
  }

  get #lossless() {
    return byId("format").value === "webp" && byId("lossless").checked;
  }

  #target() {
    return { width: Number(byId("width").value), height: Number(byId("height").value) };
  }

  /** @param {string} name */
  #radio(name) {
    return this.form.querySelector(`input[name=${name}]:checked`)?.getAttribute("value") ?? "";
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  #check(name, value) {
    for (const field of /** @type {NodeListOf<HTMLInputElement>} */ (this.form.querySelectorAll(`input[name=${name}]`))) {
      if (field.value === value) field.checked = true;
    }
  }

  #build() {
    byId("scales").replaceChildren(...[...this.limits.scales.map(String), "size"].map((value) =>
      h("label", {}, h("input", { type: "radio", name: "scale", value, checked: value === String(this.limits.default_scale) }),
        h("span", {}, value === "size" ? t("options.exact") : `${value}×`))));
    byId("format").replaceChildren(h("option", { value: "" }, t("options.same")),
      ...this.limits.output_formats.map((format) => h("option", { value: format.name }, format.label)));
    if (!this.model) this.#check("model", this.limits.default_model);
    if (!this.model) this.#check("model", this.cards.models[0]?.name ?? "");
  }

  #values() {
    return {
      model: this.model, scale: this.#radio("scale"), format: byId("format").value,
      width: byId("width").value, height: byId("height").value, quality: byId("quality").value,
      background: byId("background").value, metadata: byId("metadata").checked,
      lossless: byId("lossless").checked, tta: this.tta, fast: byId("fast").checked,
    };
  }

  /** @param {Record<string, any>} values */
  #apply(values) {
    this.#check("model", values.model);
    this.#check("scale", values.scale);
    for (const id of ["format", "width", "height", "quality", "background"]) {
      if (typeof values[id] === "string") byId(id).value = values[id];
    }
    if (byId("format").selectedIndex < 0) byId("format").value = "";
    for (const id of ["metadata", "lossless", "tta", "fast"]) {
      if (typeof values[id] === "boolean") byId(id).checked = values[id];
    }
    byId("more").open ||= Boolean(values.tta || values.fast || values.metadata === false);
  }

  #restore() {
    byId("quality").value = "90";
    try {
      this.#apply(JSON.parse(local.get(KEY) ?? "{}"));
    } catch { /* not what we wrote: the defaults */ }
  }

  #changed() {
    this.#adapt();
    local.set(KEY, JSON.stringify(this.#values()));
    this.dispatchEvent(new Event("change"));
  }

  /** Enable what fits to the choice. Nothing appears or disappears but the fields of a size. */
  #adapt() {
    const exact = this.#radio("scale") === "size";
    byId("target").hidden = !exact;
    // Or what is wrong in a field that nobody sees would keep the form from being sent.
    byId("width").disabled = byId("height").disabled = !exact;
    const quality = this.#hasQuality && !this.#lossless;
    byId("quality").disabled = !quality;
    byId("quality-field").classList.toggle("off", !quality);
    setText(byId("quality-value"), quality ? byId("quality").value : "");
    byId("lossless").disabled = byId("format").value !== "webp";
    byId("background").disabled = byId("format").value !== "jpg";
  }
}
