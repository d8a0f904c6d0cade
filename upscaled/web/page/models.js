// The models as cards to choose from, each with the time it takes for the picture at hand.
import { h, setText } from "./dom.js";
import { rough } from "./format.js";
import { t } from "./text.js";

/**
 * @typedef {{scale: number, seconds_per_megapixel: number, measured: boolean}} Speed
 * @typedef {{name: string, description: string, supported_scales: number[], license?: string, imported?: boolean, speed?: Speed[]}} Model
 */

/**
 * Seconds that a model takes for a picture; null where they are not known.
 * @param {Model} model
 * @param {number} enlargement
 * @param {number} pixels of the source
 * @param {boolean} tta
 */
export function secondsOf(model, enlargement, pixels, tta) {
  const speeds = [...(model.speed ?? [])].sort((a, b) => a.scale - b.scale);
  const speed = speeds.find((one) => one.scale >= enlargement) ?? speeds.at(-1);
  return speed ? ((speed.seconds_per_megapixel * pixels) / 1e6) * (tta ? 8 : 1) : null;
}

/** Events: `times` when the models' times are others. */
export class ModelCards extends EventTarget {
  /**
   * @param {HTMLElement} holder
   * @param {Model[]} models
   */
  constructor(holder, models) {
    super();
    this.models = models;
    /** @type {Map<string, HTMLElement>} */
    this.times = new Map();
    /** @type {Map<string, number>} what each takes for the picture at hand; those that are not known are left out */
    this.seconds = new Map();
    this.holder = holder;
    this.render("");
  }

  /** @param {string} chosen name of the model that is chosen */
  render(chosen) {
    this.times.clear();
    this.holder.replaceChildren(...this.models.map((model) => {
      const time = h("span", { class: "time" });
      this.times.set(model.name, time);
      const scales = model.supported_scales.map((scale) => `${scale}×`).join(" ");
      return h("label", { class: "model" },
        h("input", { type: "radio", name: "model", value: model.name, checked: model.name === chosen }),
        h("span", { class: "model-name" }, model.name),
        h("span", { class: "model-text" }, model.description),
        h("span", { class: "model-facts" }, t("model.facts", { scales, license: model.license && model.license !== "unknown" ? model.license : t("model.unlicensed") })),
        time);
    }));
  }

  /**
   * Show times for a picture, or without one for a megapixel.
   * @param {number} enlargement
   * @param {number} pixels 0: no picture
   * @param {boolean} tta
   * @param {Map<string, number>} told what the server says for this very picture, as far as it has been asked
   */
  showTimes(enlargement, pixels, tta, told) {
    this.seconds.clear();
    for (const model of this.models) {
      const seconds = told.get(model.name) ?? secondsOf(model, enlargement, pixels || 1e6, tta);
      if (seconds !== null && pixels) this.seconds.set(model.name, seconds);
      const text = seconds === null ? "" : t(pixels ? "model.time" : "model.speed", { time: rough(seconds) });
      setText(/** @type {HTMLElement} */ (this.times.get(model.name)), text);
    }
    this.dispatchEvent(new Event("times"));
  }
}
