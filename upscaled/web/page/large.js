// Large pictures: a small stand-in to look at, and single parts. All pixels at once are in memory
// only where the browser has no other way, and then for a moment.
import { cut, smaller } from "./png.js";

export { sizeOf } from "./png.js";

const PIXELS = 2.5e6; // of a stand-in
const STRIP = 64; // rows of a stand-in that are made at a time

/**
 * A small picture that looks like a large one.
 * @param {Blob} file
 * @param {{width: number, height: number}} size of the picture, as seen
 * @returns {Promise<Blob>} the promise rejects where the browser cannot read the picture
 */
export async function standIn(file, { width, height }) {
  const factor = Math.ceil(Math.sqrt((width * height) / PIXELS));
  return (await smaller(file, factor).catch(() => null)) ?? drawn(file, factor);
}

/**
 * A part of a large picture as a PNG.
 * @param {Blob} file
 * @param {{x: number, y: number, width: number, height: number}} box
 * @returns {Promise<Blob | null>}
 */
export async function partOf(file, box) {
  const part = await cut(file, box).catch(() => null);
  if (part) return part;
  const bitmap = await createImageBitmap(file, box.x, box.y, box.width, box.height);
  const { canvas, context } = blank(box.width, box.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/**
 * @param {Blob} file
 * @param {number} factor
 * @returns {Promise<Blob>}
 */
async function drawn(file, factor) {
  const bitmap = await createImageBitmap(file);
  try {
    const { canvas, context } = blank(Math.ceil(bitmap.width / factor), Math.ceil(bitmap.height / factor));
    for (let top = 0; top < canvas.height; top += STRIP) {
      const rows = Math.min(STRIP, canvas.height - top);
      const from = Math.min(rows * factor, bitmap.height - top * factor);
      // In strips, since the browser copies what it makes smaller.
      const strip = await createImageBitmap(bitmap, 0, top * factor, bitmap.width, from, {
        resizeWidth: canvas.width, resizeHeight: rows, resizeQuality: "medium",
      });
      context.drawImage(strip, 0, top);
      strip.close();
    }
    return await new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/webp", 0.9));
  } finally {
    bitmap.close();
  }
}

/**
 * @param {number} width
 * @param {number} height
 */
function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return { canvas, context: /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")) };
}
