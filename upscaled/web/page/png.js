// Large PNG files, read row by row: a browser would hold all of their pixels to show or to cut them.

const BLOCK = 1 << 20; // bytes that are read at a time
const PAUSE = 8 << 20; // unpacked bytes between two pauses, in which the browser tidies memory and draws
const COLOUR = new Set(["iCCP", "sRGB", "gAMA", "cHRM", "cICP"]); // chunks that say what the numbers mean
const OTHER = new Set(["tRNS", "eXIf", "PLTE", "acTL"]); // the browser's work: colour keys, turned pictures, frames
const MOST_COLOUR = 4 << 20; // bytes of such a chunk
const CHANNELS = /** @type {Record<number, number>} */ ({ 0: 1, 2: 3, 4: 2, 6: 4 });

/**
 * @typedef {object} Header
 * @property {number} width
 * @property {number} height
 * @property {number} depth bits of a channel: 8 or 16
 * @property {number} type colour type
 * @property {Uint8Array[]} colour chunks, whole
 */

/**
 * The size in pixels; null where this module does not read the file.
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number} | null>}
 */
export async function sizeOf(file) {
  return (await Png.open(file))?.header ?? null;
}

/**
 * A smaller PNG of the same colours; null where this module does not read the file.
 * @param {Blob} file
 * @param {number} factor how many times smaller along each side
 * @returns {Promise<Blob | null>}
 */
export async function smaller(file, factor) {
  const png = await Png.open(file);
  if (!png) return null;
  const { width, height, type, depth } = png.header;
  const channels = CHANNELS[type];
  const alpha = type >= 4 ? channels - 1 : -1;
  const step = depth / 8; // of 16 bits the upper 8 do
  const columns = Math.ceil(width / factor);
  const rows = Math.ceil(height / factor);
  const out = new Uint8Array(rows * (1 + columns * channels));
  const sums = new Float64Array(columns * channels);
  const weights = new Float64Array(columns);
  let y = 0;
  await png.rows((row) => {
    for (let x = 0, at = 0; x < width; x += 1, at += channels * step) {
      const column = (x / factor) | 0;
      const opacity = alpha < 0 ? 1 : row[at + alpha * step];
      weights[column] += opacity;
      for (let channel = 0; channel < channels; channel += 1) {
        // Transparent pixels have any colour, so they do not count for the mean.
        sums[column * channels + channel] += row[at + channel * step] * (channel === alpha ? 1 : opacity);
      }
    }
    y += 1;
    if (y % factor && y < height) return true;
    const pixels = ((y - 1) % factor) + 1;
    let to = Math.floor((y - 1) / factor) * (1 + columns * channels) + 1;
    for (let column = 0; column < columns; column += 1) {
      const count = pixels * Math.min(factor, width - column * factor);
      for (let channel = 0; channel < channels; channel += 1, to += 1) {
        const weight = channel === alpha ? count : weights[column];
        out[to] = weight ? Math.round(sums[column * channels + channel] / weight) : 0;
      }
    }
    sums.fill(0);
    weights.fill(0);
    return true;
  });
  if (y < height) return null;
  return written({ ...png.header, width: columns, height: rows, depth: 8 }, out);
}

/**
 * A part as a PNG with the same numbers; null where this module does not read the file.
 * @param {Blob} file
 * @param {{x: number, y: number, width: number, height: number}} box
 * @returns {Promise<Blob | null>}
 */
export async function cut(file, box) {
  const png = await Png.open(file);
  if (!png) return null;
  const { pixelBytes } = png;
  const stride = box.width * pixelBytes;
  const out = new Uint8Array(box.height * (1 + stride));
  let y = 0;
  await png.rows((row) => {
    if (y >= box.y) out.set(row.subarray(box.x * pixelBytes, box.x * pixelBytes + stride), (y - box.y) * (1 + stride) + 1);
    y += 1;
    return y < box.y + box.height;
  });
  if (y < box.y + box.height) return null;
  return written({ ...png.header, width: box.width, height: box.height }, out);
}

class Png {
  /**
   * @param {Blob} file
   * @param {Header} header
   * @param {number} start of the first IDAT chunk
   */
  constructor(file, header, start) {
    this.file = file;
    this.header = header;
    this.start = start;
    this.pixelBytes = (CHANNELS[header.type] * header.depth) / 8;
  }

  /**
   * @param {Blob} file
   * @returns {Promise<Png | null>}
   */
  static async open(file) {
    const first = new Uint8Array(await file.slice(0, 33).arrayBuffer());
    if (first.length < 33 || String.fromCharCode(...first.subarray(1, 8)) !== "PNG\r\n\x1a\n" || !("DecompressionStream" in window)) return null;
    const view = new DataView(first.buffer);
    const [depth, type, , , interlaced] = first.subarray(24, 29);
    if (!(type in CHANNELS) || (depth !== 8 && depth !== 16) || interlaced) return null;
    const header = { width: view.getUint32(16), height: view.getUint32(20), depth, type, colour: /** @type {Uint8Array[]} */ ([]) };
    for (let at = 33; ;) {
      const head = await chunkAt(file, at);
      if (!head || OTHER.has(head.type)) return null;
      if (head.type === "IDAT") return new Png(file, header, at);
      if (COLOUR.has(head.type)) {
        if (head.length > MOST_COLOUR) return null;
        header.colour.push(new Uint8Array(await file.slice(at, at + 12 + head.length).arrayBuffer()));
      }
      at += 12 + head.length;
    }
  }

  /**
   * Call `take` with each row's bytes, until it returns false. A row is overwritten by the next but one.
   * @param {(row: Uint8Array) => boolean} take
   */
  async rows(take) {
    const inflated = new DecompressionStream("deflate");
    const feeding = this.#feed(inflated.writable.getWriter());
    const reader = inflated.readable.getReader();
    const stride = this.header.width * this.pixelBytes;
    let row = new Uint8Array(1 + stride);
    let before = new Uint8Array(1 + stride);
    let filled = 0;
    let unpacked = 0;
    try {
      for (let left = this.header.height; left;) {
        const { done, value } = await reader.read();
        if (done) return;
        unpacked += value.length;
        if (unpacked > PAUSE) {
          await new Promise((resolve) => setTimeout(resolve));
          unpacked = 0;
        }
        for (let at = 0; at < value.length && left;) {
          const some = value.subarray(at, at + row.length - filled);
          row.set(some, filled);
          filled += some.length;
          at += some.length;
          if (filled < row.length) break;
          unfilter(row, before, this.pixelBytes);
          left = take(row.subarray(1)) ? left - 1 : 0;
          [row, before, filled] = [before, row, 0];
        }
      }
    } finally {
      await reader.cancel().catch(() => {});
      await feeding.catch(() => {});
    }
  }

  /** @param {WritableStreamDefaultWriter} writer */
  async #feed(writer) {
    let block = new Uint8Array();
    let start = 0;
    const bytes = async (/** @type {number} */ from, /** @type {number} */ length) => {
      if (from < start || from + Math.min(length, 8) > start + block.length) {
        block = new Uint8Array(await this.file.slice(from, from + BLOCK).arrayBuffer());
        start = from;
      }
      return block.subarray(from - start, from - start + length);
    };
    try {
      for (let at = this.start; ;) {
        const head = headOf(await bytes(at, 8));
        if (head?.type !== "IDAT") break;
        for (let done = 0; done < head.length;) {
          const piece = await bytes(at + 8 + done, head.length - done);
          if (!piece.length) break;
          await writer.write(piece);
          done += piece.length;
        }
        at += 12 + head.length;
      }
      await writer.close();
    } catch (error) {
      await writer.abort(error).catch(() => {});
      throw error;
    }
  }
}

/**
 * @param {Blob} file
 * @param {number} at
 */
async function chunkAt(file, at) {
  return headOf(new Uint8Array(await file.slice(at, at + 8).arrayBuffer()));
}

/**
 * @param {Uint8Array} bytes
 * @returns {{length: number, type: string} | null} null at the end of the file
 */
function headOf(bytes) {
  if (bytes.length < 8) return null;
  return { length: new DataView(bytes.buffer, bytes.byteOffset).getUint32(0), type: String.fromCharCode(...bytes.subarray(4, 8)) };
}

/**
 * Undo the filter of a row in place (PNG specification, section 9). The first byte names it.
 * @param {Uint8Array} row
 * @param {Uint8Array} before the row above, unfiltered
 * @param {number} pixel bytes of one
 */
function unfilter(row, before, pixel) {
  const { length } = row;
  const filter = row[0];
  if (filter === 1) for (let at = 1 + pixel; at < length; at += 1) row[at] += row[at - pixel];
  else if (filter === 2) for (let at = 1; at < length; at += 1) row[at] += before[at];
  else if (filter === 3) {
    for (let at = 1; at < length; at += 1) row[at] += ((at > pixel ? row[at - pixel] : 0) + before[at]) >> 1;
  } else if (filter === 4) {
    for (let at = 1; at <= pixel; at += 1) row[at] += before[at];
    for (let at = 1 + pixel; at < length; at += 1) {
      const left = row[at - pixel];
      const above = before[at];
      const corner = before[at - pixel];
      const toLeft = Math.abs(above - corner);
      const toAbove = Math.abs(left - corner);
      const toCorner = Math.abs(left + above - 2 * corner);
      row[at] += toLeft <= toAbove && toLeft <= toCorner ? left : toAbove <= toCorner ? above : corner;
    }
  }
}

/**
 * @param {Header} header
 * @param {Uint8Array} rows each after a byte that names no filter
 * @returns {Promise<Blob>}
 */
async function written({ width, height, depth, type, colour }, rows) {
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([depth, type], 8);
  const packed = new Response(new Blob([/** @type {BlobPart} */ (rows)]).stream().pipeThrough(new CompressionStream("deflate")));
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a), chunk("IHDR", head), ...colour,
    chunk("IDAT", new Uint8Array(await packed.arrayBuffer())), chunk("IEND", new Uint8Array()),
  ];
  return new Blob(/** @type {BlobPart[]} */ (parts), { type: "image/png" });
}

/**
 * @param {string} type
 * @param {Uint8Array} content
 */
function chunk(type, content) {
  const whole = new Uint8Array(12 + content.length);
  const view = new DataView(whole.buffer);
  view.setUint32(0, content.length);
  whole.set([...type].map((letter) => letter.charCodeAt(0)), 4);
  whole.set(content, 8);
  view.setUint32(8 + content.length, checksum(whole.subarray(4, 8 + content.length)));
  return whole;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @param {Uint8Array} bytes @returns {number} their CRC-32 */
function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
