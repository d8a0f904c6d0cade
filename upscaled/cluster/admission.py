"""Admission at an API server, which does no jobs: workers know their own memory and disks."""

from __future__ import annotations

from upscaled.imaging import Probe
from upscaled.jobs.job import JobRequest
from upscaled.models.catalog import Model
from upscaled.service.admission import Admission


class SharedAdmission(Admission):
    """`Admission` that leaves it to the workers whether they have room for a job."""

    async def _check_room(self, request: JobRequest, model: Model, probe: Probe) -> None:
        self._check_limit(request, probe)
