// What the chosen pictures will take, asked from the server before anything is sent.
import { ApiError, json } from "./api.js";
import { byId, debounced, setText } from "./dom.js";
import { dimensions, rough } from "./format.js";
import { t } from "./text.js";

const PAUSE = 300; // milliseconds; an estimate counts for the limit of submissions
const CACHED = 100;
const FRESH = 60_000; // milliseconds; the queue changes

export class Estimate {
  /**
   * @param {import("./stage.js").Stage} stage
   * @param {import("./options.js").Options} options
   */
  constructor(stage, options) {
    this.stage = stage;
    this.options = options;
    /** @type {Map<string, {told: any, until: number}>} */
    this.known = new Map();
    /** @type {import("./stage.js").Picture | null} the picture whose estimate shows */
    this.shown = null;
    /** @type {Map<string, number>} the seconds of each model that it names */
    this.seconds = new Map();
    this.later = debounced(() => this.#ask(), PAUSE);
  }

  /** Show the estimate of the selected picture. */
  refresh() {
    const picture = this.stage.selected;
    const known = picture?.width ? this.known.get(this.#key()) : null;
    if (known && known.until > Date.now()) return this.#show(known.told);
    if (!picture || picture !== this.shown) this.seconds = new Map();
    this.#cards();
    // Until the answer comes, the picture's earlier estimate stays; another picture's does not.
    if (!picture?.width || picture !== this.shown) {
      byId("estimate").classList.remove("bad");
      setText(byId("estimate"), t(!picture ? "estimate.none" : picture.width ? "estimate.asking" : "estimate.unreadable"));
    }
    if (picture?.width) this.later();
  }

  /** Forget all estimates: what has run since makes better ones. */
  renew() {
    this.known.clear();
    this.later();
  }

  /** Show the models' times, the same as in the estimate as far as there is one. */
  #cards() {
    const picture = this.stage.selected;
    const pixels = picture ? picture.width * picture.height : 0;
    this.options.cards.showTimes(this.options.enlargement(picture), pixels, this.options.tta, this.seconds);
  }

  #form() {
    const picture = this.stage.selected;
    const form = new URLSearchParams(this.options.fields());
    form.set("input_width", String(picture?.width));
    form.set("input_height", String(picture?.height));
    return form;
  }

  #key() {
    return this.#form().toString();
  }

  async #ask() {
    if (!this.stage.selected?.width || !this.options.complete) return;
    const key = this.#key();
    const form = new FormData();
    for (const [name, value] of this.#form()) form.append(name, value);
    let told;
    let until = Date.now() + FRESH;
    try {
      told = await json("estimate", { method: "POST", body: form });
    } catch (error) {
      if (!(error instanceof ApiError) || error.status === 401) return;
      told = { refused: error.message };
      if (error.status === 429 || error.status >= 500) {
        const pause = (error.retryAfter || 5) * 1000;
        until = Date.now() + pause;
        setTimeout(() => this.refresh(), pause);
      }
    }
    if (this.known.size > CACHED) this.known.clear();
    this.known.set(key, { told, until });
    if (this.stage.selected && key === this.#key()) this.#show(told);
  }

  /** @param {any} told */
  #show(told) {
    this.shown = this.stage.selected;
    this.seconds = new Map((told.models ?? []).map((/** @type {{model_name: string, seconds: number}} */ time) => [time.model_name, time.seconds]));
    this.#cards();
    byId("estimate").classList.toggle("bad", Boolean(told.refused));
    if (told.refused) return setText(byId("estimate"), told.refused);
    const parts = [
      t("estimate.size", { from: dimensions(told.input_size), to: dimensions(told.output_size) }),
      t(told.measured ? "estimate.time" : "estimate.guess", { time: rough(told.seconds) }),
    ];
    if (told.wait_seconds >= 5) parts.push(t("estimate.wait", { time: rough(told.wait_seconds) }));
    if (told.quicker) parts.push(t("estimate.quicker", { model: told.quicker.model_name, time: rough(told.quicker.seconds) }));
    setText(byId("estimate"), parts.join(" · "));
  }
}
