// Upscale a picture with the types that openapi-typescript made: BASE_URL PICTURE RESULT.
import { readFile, writeFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { paths } from "./openapi_typescript.js";

const [base, picture, result] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: base });

const form = new FormData();
form.append("image", new File([await readFile(picture)], "photo.png"));
form.append("model_name", "realesr-animevideov3");
form.append("scale", "2");
const accepted = await client.POST("/upscale", {
  body: form as never,
  bodySerializer: (body) => body as never,
});
if (accepted.data === undefined) throw new Error(JSON.stringify(accepted.error));
const params = { path: { job_id: (accepted.data as { job_id: string }).job_id } };
const wait = { params: { ...params, query: { wait: 45 } } };
let { data: job } = await client.GET("/status/{job_id}", wait);
while (job?.status === "queued" || job?.status === "processing") {
  ({ data: job } = await client.GET("/status/{job_id}", wait));
}
if (job?.status !== "completed") throw new Error(JSON.stringify(job));
const file = await client.GET("/download/{job_id}", { params, parseAs: "blob" });
const blob = file.data as unknown as Blob;
if (blob.size !== job.file_size_bytes) throw new Error(`${blob.size} bytes`);
await writeFile(result, Buffer.from(await blob.arrayBuffer()));
const refused = await client.GET("/status/{job_id}", { params: { path: { job_id: "1".repeat(19) } } });
if (refused.error?.code !== "unknown_job") throw new Error(JSON.stringify(refused.error));
console.log(job.status, job.output_size.width, job.output_size.height);
