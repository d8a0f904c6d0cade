// Tells screen readers what happened, politely and not more than once a second.
import { byId } from "./dom.js";

/** @type {string[]} */
let waiting = [];
let timer = 0;

/** @param {string} sentence */
export function announce(sentence) {
  if (!waiting.includes(sentence)) waiting.push(sentence);
  if (timer) return;
  timer = setTimeout(() => {
    byId("announcer").textContent = waiting.slice(0, 5).join(" ");
    waiting = [];
    timer = 0;
  }, 1000);
}
