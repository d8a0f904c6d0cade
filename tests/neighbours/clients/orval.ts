// Upscale a picture with the functions that orval made: BASE_URL PICTURE RESULT.
import { readFile, writeFile } from "node:fs/promises";
import { status, submit } from "./orval_client.js";

const [base, picture, result] = process.argv.slice(2) as [string, string, string];
const root = base.replace(/\/api\/v1$/, "");
const plain = globalThis.fetch;
// Its functions ask for paths; the server that they are on is for the page that uses them.
globalThis.fetch = (path, options) => plain(root + "/api/v1" + String(path).replace(/^\/api\/v1/, ""), options);

const accepted = await submit({
  image: new File([await readFile(picture)], "photo.png"),
  model_name: "realesr-animevideov3",
  scale: 2,
});
if (accepted.status !== 202) throw new Error(JSON.stringify(accepted.data));
const id = accepted.data.job_id;
let job = await status(id, { wait: 45 });
while (job.status === 200 && (job.data.status === "queued" || job.data.status === "processing")) {
  job = await status(id, { wait: 45 });
}
if (job.status !== 200 || job.data.status !== "completed") throw new Error(JSON.stringify(job.data));
// orval's own `download` reads every body as text, so the picture is fetched by its address.
const file = await plain(new URL(job.data.download_url, base));
const blob = await file.blob();
if (blob.size !== job.data.file_size_bytes) throw new Error(`${blob.size} bytes`);
await writeFile(result, Buffer.from(await blob.arrayBuffer()));
console.log(job.data.status, job.data.output_size.width, job.data.output_size.height);
