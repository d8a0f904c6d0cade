// Small pictures of jobs: the local file where this tab sent it, else the server's thumbnail.
import { address, authorization } from "./api.js";

const KEPT = 300;

/** @type {Map<string, Promise<string>>} address of a picture by job and side */
const known = new Map();
/** @type {Map<string, string>} */
const local = new Map();

/**
 * Use the picture that was sent as the job's thumbnail until it has a result.
 * @param {string} id
 * @param {string} url
 */
export function keepLocal(id, url) {
  local.set(id, url);
}

/** @param {string} id of a job that is gone */
export function forget(id) {
  const url = local.get(id);
  if (url) URL.revokeObjectURL(url);
  local.delete(id);
  for (const side of ["source", "result"]) void drop(`${id} ${side}`);
}

/**
 * The address of a job's picture; "" where there is none.
 * @param {import("./jobs.js").Job} job
 * @returns {Promise<string>}
 */
export function thumbnail(job) {
  const own = local.get(job.job_id);
  const done = job.status === "completed";
  if (done ? job.result_gone : job.status === "failed" || job.status === "cancelled") return Promise.resolve(own ?? "");
  if (own && !done) return Promise.resolve(own);
  const key = `${job.job_id} ${done ? "result" : "source"}`;
  let found = known.get(key);
  if (!found) {
    found = fetchOne(job.job_id, done ? "result" : "source", own ?? "");
    known.set(key, found);
    void found.then((url) => {
      if (!url || url === own) known.delete(key); // perhaps later
      else if (own) {
        local.delete(job.job_id);
        setTimeout(() => URL.revokeObjectURL(own), 1000); // after the row shows the other one
      }
    });
    for (const old of known.keys()) {
      if (known.size <= KEPT) break;
      void drop(old);
    }
  }
  return found;
}

/** @param {string} key */
async function drop(key) {
  const found = known.get(key);
  known.delete(key);
  const url = await found;
  if (url && ![...local.values()].includes(url)) URL.revokeObjectURL(url);
}

/**
 * @param {string} id
 * @param {string} side
 * @param {string} otherwise
 */
async function fetchOne(id, side, otherwise) {
  try {
    const response = await fetch(address(`thumbnail/${id}?side=${side}`), { headers: authorization() });
    return response.ok ? URL.createObjectURL(await response.blob()) : otherwise;
  } catch {
    return otherwise;
  }
}
