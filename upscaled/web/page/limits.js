// What the server takes: formats, sizes and how long it keeps things.
import { ApiError, json } from "./api.js";

/**
 * @typedef {{name: string, label: string, media_type: string, suffixes: string[]}} InputFormat
 * @typedef {{name: string, label: string, quality: boolean, lossless: boolean}} OutputFormat
 * @typedef {object} Limits
 * @property {boolean} token_required
 * @property {number} max_upload_bytes
 * @property {number} max_input_megapixels
 * @property {number} max_output_megapixels
 * @property {InputFormat[]} input_formats
 * @property {OutputFormat[]} output_formats
 * @property {number[]} scales
 * @property {number} max_enlargement
 * @property {string} default_model
 * @property {number} default_scale
 * @property {boolean} delete_after_download
 * @property {number} result_ttl_hours
 * @property {{max_input_pixels: number} | null} preview
 * @property {{docs: boolean, job_lists: boolean}} features
 */

/** @returns {Promise<Limits>} */
export async function fetchLimits() {
  try {
    return await json("limits");
  } catch (error) {
    if (!(error instanceof ApiError) || error.status === 503) throw error;
    return USUAL;
  }
}

const FORMATS = [["png", "PNG", ".png"], ["jpeg", "JPEG", ".jpg"], ["webp", "WebP", ".webp"], ["bmp", "BMP", ".bmp"], ["tiff", "TIFF", ".tif"], ["avif", "AVIF", ".avif"]];
/** @type {Limits} */
const USUAL = {
  token_required: false, max_upload_bytes: 200 * 2 ** 20, max_input_megapixels: 150, max_output_megapixels: 2400,
  input_formats: FORMATS.map(([name, label, suffix]) => ({ name, label, media_type: `image/${name}`, suffixes: [suffix] })),
  output_formats: [{ name: "png", label: "PNG", quality: false, lossless: true }, { name: "jpg", label: "JPEG", quality: true, lossless: false }, { name: "webp", label: "WebP", quality: true, lossless: true }],
  scales: [2, 3, 4], max_enlargement: 16, default_model: "realesrgan-x4plus", default_scale: 4,
  delete_after_download: true, result_ttl_hours: 24, preview: null, features: { docs: true, job_lists: true },
};
