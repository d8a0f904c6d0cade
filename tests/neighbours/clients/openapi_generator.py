"""Upscale a picture with the client that openapi-generator made: BASE_URL PICTURE RESULT."""

import sys
from pathlib import Path

from upscaled_client import ApiClient, Configuration, JobsApi
from upscaled_client.exceptions import NotFoundException
from upscaled_client.models.completed_job import CompletedJob
from upscaled_client.models.processing_job import ProcessingJob
from upscaled_client.models.queued_job import QueuedJob
from upscaled_client.models.scale import Scale
from upscaled_client.models.upscale_response import UpscaleResponse

base, picture, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
with ApiClient(Configuration(host=base)) as client:
    jobs = JobsApi(client)
    accepted = jobs.submit_with_http_info(
        image=(picture.name, picture.read_bytes()),
        model_name="realesr-animevideov3",
        scale=Scale.NUMBER_2,
    ).data
    assert isinstance(accepted, UpscaleResponse), accepted
    job = jobs.status(accepted.job_id, wait=45).actual_instance
    while isinstance(job, QueuedJob | ProcessingJob):
        job = jobs.status(accepted.job_id, wait=45).actual_instance
    assert isinstance(job, CompletedJob), job
    result.write_bytes(jobs.download(accepted.job_id))
    assert result.stat().st_size == job.file_size_bytes
    try:
        jobs.status("1" * 19)
    except NotFoundException as refused:
        assert refused.data.code == "unknown_job", refused.data
    else:
        raise AssertionError("an unknown job has no status")
print(type(job).__name__, job.output_size.width, job.output_size.height)
