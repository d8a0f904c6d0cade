"""Upscale a picture with the client that openapi-python-client made: BASE_URL PICTURE RESULT."""

import sys
from io import BytesIO
from pathlib import Path

from upscaled_client import Client
from upscaled_client.api.jobs import download, status, submit
from upscaled_client.models import (
    CompletedJob,
    Error,
    ProcessingJob,
    QueuedJob,
    Scale,
    UpscaleRequest,
    UpscaleResponse,
)
from upscaled_client.types import File

base, picture, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
client = Client(base_url=base, raise_on_unexpected_status=True)
body = UpscaleRequest(
    image=File(payload=BytesIO(picture.read_bytes()), file_name=picture.name),
    model_name="realesr-animevideov3",
    scale=Scale(2),
)
accepted = submit.sync(client=client, body=body)
assert isinstance(accepted, UpscaleResponse), accepted
job = status.sync(accepted.job_id, client=client, wait=45)
while isinstance(job, QueuedJob | ProcessingJob):
    job = status.sync(accepted.job_id, client=client, wait=45)
assert isinstance(job, CompletedJob), job
file = download.sync(accepted.job_id, client=client)
assert isinstance(file, File), file
result.write_bytes(file.payload.read())
assert result.stat().st_size == job.file_size_bytes
refused = status.sync("1" * 19, client=client)
assert isinstance(refused, Error) and refused.code == "unknown_job", refused
print(type(job).__name__, job.output_size.width, job.output_size.height)
