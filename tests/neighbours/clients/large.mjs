// Send a large picture and continue a download with fetch: BASE_URL PICTURE JOB_ID RESULT.
import { appendFile, openAsBlob, stat } from "node:fs";
import { promisify } from "node:util";

const [base, picture, job, result] = process.argv.slice(2);
const form = new FormData();
form.append("image", await openAsBlob(picture), "large.bmp");
form.append("model_name", "realesrgan-x4plus");
const accepted = await fetch(`${base}/upscale`, { method: "POST", body: form });
console.log(await accepted.text());
if (!accepted.ok) process.exit(1);
const { size } = await promisify(stat)(result);
const rest = await fetch(`${base}/download/${job}`, { headers: { Range: `bytes=${size}-` } });
if (rest.status !== 206) throw new Error(await rest.text());
await promisify(appendFile)(result, Buffer.from(await rest.arrayBuffer()));
