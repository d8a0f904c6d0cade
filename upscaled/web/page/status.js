// What the header and the notices say about the server and the connection to it.
import { address } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { t } from "./text.js";

const AGAIN = 3000; // milliseconds, while the server is not well
let again = 0;

/** Ask how the server is, and show it. */
export async function showHealth() {
  let health;
  try {
    health = await (await fetch(address("health"), { cache: "no-store" })).json();
  } catch {
    return;
  }
  const element = byId("server");
  element.dataset.state = health.status;
  const device = health.gpu ? (health.devices ?? [])[0] : t("server.cpu");
  setText(element, health.status === "ok" ? device : t(`server.${health.status}`));
  element.title = (health.devices ?? []).join(", ");
  clearTimeout(again);
  if (health.status !== "ok") again = setTimeout(showHealth, AGAIN);
  notice("health", health.status === "failing" ? t("server.reason", { reason: health.reason ?? "" }) : "");
}

/** @type {Map<string, HTMLElement>} */
const shown = new Map();

/**
 * Show a notice on top, or with "" take it away.
 * @param {string} name
 * @param {string} text
 */
export function notice(name, text) {
  if (text && shown.get(name)?.textContent === text) return; // or screen readers say it again
  shown.get(name)?.remove();
  shown.delete(name);
  if (!text) return;
  const element = h("div", { class: "notice" }, text);
  shown.set(name, element);
  byId("notices").append(element);
}

/**
 * Show a sentence at the bottom for a while.
 * @param {string} text
 */
export function toast(text) {
  const element = h("div", { class: "toast", role: "status" }, text);
  // An open dialog covers the rest of the page, and hides it from screen readers.
  ([...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body).append(element);
  setTimeout(() => element.remove(), 8000);
}
