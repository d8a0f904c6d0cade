// Upscale a picture with fetch, as Node and browsers have it: BASE_URL PICTURE RESULT.
import { readFile, writeFile } from "node:fs/promises";

const [base, picture, result] = process.argv.slice(2);
const form = new FormData();
form.append("image", new Blob([await readFile(picture)]), "photo.png");
form.append("model_name", "realesr-animevideov3");
form.append("scale", "2");
const accepted = await (await fetch(`${base}/upscale`, { method: "POST", body: form })).json();
const status = await (await fetch(`${base}/status/${accepted.job_id}?wait=45`)).json();
if (status.status !== "completed") throw new Error(JSON.stringify(status));
const answer = await fetch(`${base}/download/${accepted.job_id}`);
if (!answer.ok) throw new Error(await answer.text());
await writeFile(result, Buffer.from(await answer.arrayBuffer()));
