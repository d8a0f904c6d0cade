// What the server takes: formats, sizes and how long it keeps things.
import { json } from "./api.js";

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
export function fetchLimits() {
  return json("limits");
}
