// What the browser keeps for the page. Where it may keep nothing, values last as long as the page.

export class Kept {
  /** @param {"localStorage" | "sessionStorage"} name */
  constructor(name) {
    this.name = name;
    /** @type {Map<string, string>} what the browser did not take */
    this.here = new Map();
  }

  /** @returns {Storage} throws where the browser blocks it */
  get #there() {
    return window[this.name];
  }

  /**
   * @param {string} key
   * @returns {string | null}
   */
  get(key) {
    const own = this.here.get(key);
    if (own !== undefined) return own;
    try {
      return this.#there.getItem(key);
    } catch {
      return null;
    }
  }

  /**
   * @param {string} key
   * @param {string} value
   */
  set(key, value) {
    this.here.delete(key);
    try {
      this.#there.setItem(key, value);
    } catch {
      this.here.set(key, value);
    }
  }

  /** @param {string} key */
  remove(key) {
    this.here.delete(key);
    try {
      this.#there.removeItem(key);
    } catch { /* then it is not there either */ }
  }

  /** @returns {string[]} all keys */
  keys() {
    try {
      return [...new Set([...this.here.keys(), ...Object.keys(this.#there)])];
    } catch {
      return [...this.here.keys()];
    }
  }
}

/** Of all tabs, beyond the browser's end. */
export const local = new Kept("localStorage");
/** Of this tab. */
export const session = new Kept("sessionStorage");
