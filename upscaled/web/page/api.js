// Requests to the public API. The token travels in a header only.

import { session } from "./storage.js";

const base = new URL(`${document.documentElement.dataset.api}/`, document.baseURI);
const TOKEN = "upscaled.token";
// A connection may be dead without an error: seconds until it counts as lost …
const ANSWER = 90; // … while an answer is awaited
const STALL = 45; // … while a body is sent and no byte of it moves on

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
  return session.get(TOKEN) ?? "";
}

/** @param {string} value empty: forget it */
export function setToken(value) {
  if (value) session.set(TOKEN, value);
  else session.remove(TOKEN);
}

/** @param {string} path below the API's prefix, without a slash in front */
export function address(path) {
  return new URL(path, base).href;
}

/** @returns {Record<string, string>} */
export function authorization() {
  // A header's characters are bytes; the server reads them as UTF-8.
  const bytes = new TextEncoder().encode(token());
  return bytes.length ? { Authorization: `Bearer ${String.fromCharCode(...bytes)}` } : {};
}

/**
 * Send a request and return its response if the server accepted it.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 * @throws {ApiError|ConnectionError}
 */
export async function request(path, options = {}) {
  const { signal } = options;
  const abort = new AbortController();
  const stop = () => abort.abort();
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop);
  const timer = setTimeout(stop, ANSWER * 1000);
  let response;
  try {
    response = await fetch(address(path), {
      cache: "no-cache", ...options, signal: abort.signal, headers: { ...authorization(), ...options.headers },
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ConnectionError();
  } finally {
    clearTimeout(timer);
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
    let timer = 0;
    const within = (/** @type {number} */ seconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => call.abort(), seconds * 1000);
    };
    call.upload.onprogress = (event) => {
      within(STALL);
      onProgress(event.loaded, event.total);
    };
    call.upload.onload = () => within(ANSWER);
    call.onload = () => {
      const own = call.responseText.startsWith("{"); // else of a proxy, or of a network that wants a login
      if (own && call.status < 300) resolve(JSON.parse(call.responseText));
      else if (!own && (call.status < 300 || call.status >= 502)) reject(new ConnectionError());
      else reject(refusal(call.status, call.responseText, call.getResponseHeader("Retry-After")));
    };
    call.onerror = () => reject(new ConnectionError());
    call.onabort = () => reject(signal.aborted ? new DOMException("", "AbortError") : new ConnectionError());
    const stop = () => call.abort();
    signal.addEventListener("abort", stop);
    call.onloadend = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    };
    if (signal.aborted) return reject(new DOMException("", "AbortError"));
    within(STALL);
    call.send(body);
  });
}
