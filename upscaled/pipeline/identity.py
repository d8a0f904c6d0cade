"""The identity of a job's work: jobs with the same one get the same picture."""

from __future__ import annotations

import hashlib

from upscaled import serial
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.selection import EngineChoice
from upscaled.jobs.job import Job
from upscaled.pipeline.checkpoint import work_key
from upscaled.pipeline.result import IdentifiedModel


def work_digest(
    job: Job,
    model: IdentifiedModel,
    choice: EngineChoice,
    program_sha256: str | None,
    method: CpuMethod | None = None,
) -> str:
    """Return the SHA-256, in hexadecimal, of all that decides about the bytes of a result.

    It covers the owner, so that callers never get each other's results; the picture and what is
    wanted of it; the network and this program's version; the engine, its devices and, on the CPU,
    its library with its precision and the largest tile.

    Args:
        job: the job.
        model: the network that does its work.
        choice: the engine and its devices.
        program_sha256: of the native program, if that is the engine.
        method: the measured method to run the network; None: by the engine's rule.
    """
    request = serial.plain(job.request)
    del request["scale"]  # part of the result's name; its size is in the request anyway
    library: list[str | int] = [choice.library.value] if method is None else [method.library]
    if method is not None and method.tile:
        library.append(method.tile)  # threads decide about no byte
    content = {
        "owner": job.owner,
        "input": job.input_sha256,
        "request": request,
        "work": work_key(model.param_sha256, model.bin_sha256, model.files.native_scale),
        "engine": [choice.engine, *library, program_sha256],
        "devices": [[device.id, device.name] for device in choice.devices],
    }
    return hashlib.sha256(serial.encode(content)).hexdigest()
