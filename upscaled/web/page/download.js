// Results are saved as files. Only this counts as downloading; looking does not.
import { address, request, token } from "./api.js";
import { h } from "./dom.js";

/**
 * @param {string} id
 * @returns {Promise<void>}
 */
export function save(id) {
  return saveFrom(`download/${id}`);
}

/**
 * Save several results as one archive, made while it is sent.
 * @param {string[] | null} ids of at most 300 jobs; null: of all that the server lists
 */
export async function saveAll(ids) {
  await saveFrom(ids ? `results?job_ids=${ids.join(",")}` : "results?all=true");
}

/** @param {string} path */
async function saveFrom(path) {
  if (!token()) {
    // A link that the server refuses tells nobody why.
    await request(path, { method: "HEAD" }).catch(async () => {
      await (await request(path)).body?.cancel();
    });
    return follow(address(path), "");
  }
  // A link cannot carry the token, which must not stand in an address either.
  const response = await request(path);
  const name = fileName(response.headers.get("Content-Disposition") ?? "");
  const url = URL.createObjectURL(await response.blob());
  follow(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/**
 * @param {string} url
 * @param {string} name
 */
function follow(url, name) {
  const link = h("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
}

/**
 * The name in a Content-Disposition, the one of RFC 5987 first.
 * @param {string} header
 */
function fileName(header) {
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(header);
  if (encoded) return decodeURIComponent(encoded[1]);
  return /filename="([^"]*)"/.exec(header)?.[1] ?? "upscaled";
}
