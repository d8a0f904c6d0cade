"""The receipt of a completed job: what went in, what came out, and how."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from upscaled import __version__
from upscaled.jobs import Job
from upscaled.pipeline import Product


class Digests:
    """SHA-256 of files; those that stay as they are (models, programs) are read only once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    async def of(self, path: Path) -> str:
        """Return the file's SHA-256 in hexadecimal."""
        return await asyncio.to_thread(_sha256, path)

    async def of_lasting(self, path: Path) -> str:
        """Return the SHA-256 of a file that seldom changes, from memory while it has not."""
        stat = await asyncio.to_thread(path.stat)
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._known:
            self._known[key] = await self.of(path)
        return self._known[key]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def write_receipt(
    job: Job, product: Product, upload: Path, digests: Digests
) -> dict[str, Any]:
    """Return the receipt as plain data; sizes in pixels and bytes, times in seconds."""
    finished, place = product.finished, product.place
    program = product.program
    return {
        "version": __version__,
        "input": {
            "sha256": await digests.of(upload),
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
            "native_scale": product.model.native_scale,
            "param_sha256": await digests.of_lasting(product.model.param),
            "bin_sha256": await digests.of_lasting(product.model.bin),
        },
        "engine": {
            "name": place.engine,
            "binary_sha256": await digests.of_lasting(program) if program else None,
            "device": place.device.id,
            "device_name": place.device.name,
            "tile_size": product.tile_size,
            "tta": job.request.tta,
        },
        "seconds": {stage: round(s, 4) for stage, s in product.timings.stages.items()},
        "metadata": {"kept": list(finished.kept), "lost": list(finished.lost)},
        "verification_score": round(finished.score, 4),
    }
