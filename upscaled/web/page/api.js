// Requests to the public API. The token travels in a header only.

const base = new URL(`${document.documentElement.dataset.api}/`, document.baseURI);
const TOKEN = "upscaled.token";

/** An answer of the server that refuses; its message is the server's own sentence. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {string} code
   * @param {number} status
   * @param {number} retryAfter seconds; 0 where the server names none
   */
  constructor(message, code, status, retryAfter = 0) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The server cannot be reached. */
export class ConnectionError extends Error {}

export const unauthorized = new EventTarget();

/** @returns {string} */
export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

/** @param {string} value empty: forget it */
export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** @param {string} path below the API's prefix, without a slash in front */
export function address(path) {
  return new URL(path, base).href;
}

/** @returns {Record<string, string>} */
export function authorization() {
  const value = token();
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/**
 * Send a request and return its response if the server accepted it.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 * @throws {ApiError|ConnectionError}
 */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), {
      cache: "no-cache", ...options, headers: { ...authorization(), ...options.headers },
    });
  } catch (error) {
    if (/** @type {Error} */ (error).name === "AbortError") throw error;
    throw new ConnectionError();
  }
  if (response.ok) return response;
  throw refusal(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

/**
 * The error that a refusing answer stands for.
 * @param {number} status
 * @param {string} body
 * @param {string | null} retryAfter
 */
export function refusal(status, body, retryAfter) {
  let told = { error: "", code: "" };
  try {
    told = JSON.parse(body);
  } catch { /* not from this server, perhaps from a proxy */ }
  if (status === 401) unauthorized.dispatchEvent(new Event("unauthorized"));
  const seconds = Number(retryAfter);
  return new ApiError(
    told.error || `HTTP ${status}`, told.code || "", status, Number.isFinite(seconds) ? seconds : 0,
  );
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options) {
  return (await request(path, options)).json();
}

/**
 * Send a body and tell how far it is. The promise rejects like `request`.
 * @param {string} method
 * @param {string} path
 * @param {FormData | Blob} body
 * @param {Record<string, string>} headers
 * @param {(sent: number, total: number) => void} onProgress
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
export function send(method, path, body, headers, onProgress, signal) {
  // fetch() cannot tell the progress of an upload.
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open(method, address(path));
    for (const [name, value] of Object.entries({ ...authorization(), ...headers })) {
      call.setRequestHeader(name, value);
    }
    call.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    call.onload = () => {
      if (call.status < 300) resolve(JSON.parse(call.responseText));
      else if (call.status >= 502 && !call.responseText.startsWith("{")) reject(new ConnectionError());
      else reject(refusal(call.status, call.responseText, call.getResponseHeader("Retry-After")));
    };
    call.onerror = () => reject(new ConnectionError());
    call.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => call.abort());
    call.send(body);
  });
}
