// Icons as path data of 24×24 units, drawn with a stroke.
import { drawing } from "./dom.js";

const PATHS = {
  auto: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  cancel: "M6 6l12 12M18 6L6 18",
  compare: "M12 3v18M4 6h5v12H4zM15 6h5v12h-5z",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  delete: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  download: "M12 4v11m-5-5l5 5 5-5M5 20h14",
  info: "M12 11v6M12 7.5v.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  key: "M14 10a4 4 0 1 0-3.5 4L13 14l2 2h2v2h3v-3l-6-5z",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9v.01",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  retry: "M4 12a8 8 0 1 1 2.5 5.8M4 20v-5h5",
};

/**
 * @param {keyof typeof PATHS} name
 */
export function icon(name) {
  return drawing(PATHS[name]);
}
