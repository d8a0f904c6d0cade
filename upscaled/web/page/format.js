// Numbers, sizes and times as people of the page's language write them.
import { locale } from "./text.js";

/** @param {number} bytes */
export function fileSize(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  const digits = step === 0 || bytes >= 100 ? 0 : 1;
  return new Intl.NumberFormat(locale, {
    style: "unit", unit: units[step], unitDisplay: step ? "short" : "long", maximumFractionDigits: digits,
  }).format(bytes);
}

/**
 * A time that is not known exactly: more digits would be a promise.
 * @param {number} seconds
 */
export function rough(seconds) {
  const step = seconds < 20 ? 1 : seconds < 60 ? 5 : seconds < 600 ? 30 : 60;
  const rounded = Math.round(seconds / step) * step;
  if (rounded < 60 || rounded >= 600 || rounded % 60 === 0) return duration(Math.max(1, rounded), 59.5);
  return unit(rounded / 60, "minute");
}

/**
 * @param {number} seconds
 * @param {number} [minuteAfter] seconds from which minutes are told
 */
export function duration(seconds, minuteAfter = 99.5) {
  if (seconds < 0.95) return unit(Math.max(1, Math.round(seconds * 10)) / 10, "second");
  if (seconds < minuteAfter) return unit(Math.round(seconds), "second");
  if (seconds < 99 * 60) return unit(Math.round(seconds / 60), "minute");
  if (seconds < 48 * 3600) return unit(Math.round(seconds / 3600), "hour");
  return unit(Math.round(seconds / 86400), "day");
}

/**
 * @param {number} value
 * @param {string} name
 */
function unit(value, name) {
  const unitDisplay = name === "day" ? "long" : "short";
  return new Intl.NumberFormat(locale, { style: "unit", unit: name, unitDisplay }).format(value);
}

/** @param {number} seconds since 1970 */
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const days = (date.getTime() - Date.now()) / 86_400_000;
  if (new Date().toDateString() === date.toDateString()) return date.toLocaleString(locale, { timeStyle: "short" });
  if (days > 0 && days < 6) return date.toLocaleString(locale, { weekday: "long", hour: "numeric", minute: "2-digit" });
  return date.toLocaleString(locale, { dateStyle: "medium", timeStyle: "short" });
}

/** @param {{width: number, height: number}} size */
export function dimensions(size) {
  return `${size.width} × ${size.height}`;
}

/** @param {number} part 0 to 1 */
export function percent(part) {
  return new Intl.NumberFormat(locale, { style: "percent" }).format(part);
}
