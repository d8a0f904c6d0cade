// The page's texts in several languages: a catalogue per language, each a module of its own.
import english from "./en.js";
import { local } from "./storage.js";

export const LANGUAGES = ["en", "de"];
const KEY = "upscaled.language";

/** @type {Record<string, string | Record<string, string>>} */
let catalogue = english;
/** The language of the page. */
export let language = "en";
/** The same with the user's region, for dates and numbers: British clocks have 24 hours. */
export let locale = "en";
let plurals = new Intl.PluralRules("en");

/**
 * The text of a key. `{name}` stands for a value; a text with several forms is chosen by `{n}`.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  let text = catalogue[key] ?? /** @type {any} */ (english)[key] ?? key;
  if (typeof text === "object") text = text[plurals.select(Number(values.n))] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === "number" ? new Intl.NumberFormat(locale).format(value) : value;
  });
}

/**
 * Load the chosen language, or else the browser's, and put it into the page.
 * @param {string} [chosen]
 */
export async function loadLanguage(chosen) {
  /** @type {string | null | undefined} */
  let wanted = chosen ?? local.get(KEY);
  if (!wanted) wanted = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => LANGUAGES.includes(tag));
  language = wanted && LANGUAGES.includes(wanted) ? wanted : "en";
  locale = navigator.languages.find((tag) => tag.slice(0, 2) === language) ?? language;
  if (chosen) local.set(KEY, chosen);
  catalogue = language === "en" ? english : (await import(`./${language}.js`)).default;
  plurals = new Intl.PluralRules(language);
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) {
    element.textContent = t(/** @type {HTMLElement} */ (element).dataset.t ?? "");
  }
}
