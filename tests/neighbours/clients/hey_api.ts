// Upscale a picture with the client that @hey-api/openapi-ts made: BASE_URL PICTURE RESULT.
import { readFile, writeFile } from "node:fs/promises";
import { client } from "./hey_api/client.gen.js";
import { download, status, submit } from "./hey_api/sdk.gen.js";

const [base, picture, result] = process.argv.slice(2) as [string, string, string];
client.setConfig({ baseUrl: base });

const accepted = await submit({
  body: {
    image: new File([await readFile(picture)], "photo.png"),
    model_name: "realesr-animevideov3",
    scale: 2,
  },
  throwOnError: true,
});
const path = { job_id: (accepted.data as { job_id: string }).job_id };
let job = (await status({ path, query: { wait: 45 }, throwOnError: true })).data;
while (job.status === "queued" || job.status === "processing") {
  job = (await status({ path, query: { wait: 45 }, throwOnError: true })).data;
}
if (job.status !== "completed") throw new Error(JSON.stringify(job));
const file = (await download({ path, throwOnError: true })).data as unknown as Blob;
if (file.size !== job.file_size_bytes) throw new Error(`${file.size} bytes`);
await writeFile(result, Buffer.from(await file.arrayBuffer()));
const refused = await status({ path: { job_id: "1".repeat(19) } });
if (refused.error?.code !== "unknown_job") throw new Error(JSON.stringify(refused.error));
console.log(job.status, job.output_size.width, job.output_size.height);
