"""The receipt of a completed job: the input, the output, and how it was made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from upscaled import __version__
from upscaled.files import sha256_of
from upscaled.jobs.job import Job
from upscaled.pipeline.result import RunResult


async def make_receipt(job: Job, result: RunResult, upload: Path) -> dict[str, Any]:
    """Return the receipt as plain data; sizes in pixels and bytes, times in seconds."""
    finished, place, model = result.finished, result.place, result.model
    how = result.execution
    return {
        "version": __version__,
        "input": {
            "sha256": job.input_sha256 or await asyncio.to_thread(sha256_of, upload),
            "format": job.input_format,
            "width": job.input_size.width,
            "height": job.input_size.height,
        },
        "output": {
            "sha256": finished.sha256,
            "format": job.request.format,
            "width": finished.size.width,
            "height": finished.size.height,
            "file_size_bytes": finished.file_size_bytes,
        },
        "model": {
            "name": job.request.model_name,
            "native_scale": model.files.native_scale,
            "param_sha256": model.param_sha256,
            "bin_sha256": model.bin_sha256,
            "license": model.license or "unknown",
        },
        "engine": {
            "name": place.engine,
            "binary_sha256": how.program_sha256,
            "library": " and ".join(how.libraries) or None,
            "device": place.device.id,
            "device_name": place.device.name,
            "devices": list(dict.fromkeys((place.device.id, *how.helpers))),
            "tile_size": result.tile_size,
            "tiles_at_once": how.tiles_at_once or None,
            "threads_per_tile": how.threads_per_tile or None,
            "measured": how.method is not None and how.method.measured,
            "tta": job.request.tta,
            "precision": job.request.precision,
        },
        "seconds": {stage: round(s, 4) for stage, s in result.seconds.stages.items()},
        "metadata": {"kept": list(finished.kept), "lost": list(finished.lost)},
        "verification_score": round(finished.score, 4),
    }
