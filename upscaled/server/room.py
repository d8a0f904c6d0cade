"""Warnings at the start if memory or disk have too little room for jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.engines.memory import available
from upscaled.pictures import Size
from upscaled.pipeline.footprint import disk_bytes, memory_bytes
from upscaled.service.admission import DISK_RESERVE

_ICON = Size(64, 64)
_PHOTO = Size(4000, 3000)
"""What a telephone makes."""
_SCALE = 4


def complaints(config: Config) -> list[str]:
    """Return a sentence each for memory too small for a job and a disk too full for a photo."""
    found = []
    needed, there = memory_bytes(_ICON, _ICON.times(_SCALE), "png"), available()
    if there < needed:
        found.append(
            f"The smallest job needs {needed >> 20} MiB of memory and {there >> 20} MiB are there "
            "for one (half of what is free), so every picture is refused. Stop other programs, or "
            "give the machine or the service's control group (MemoryMax) more memory."
        )
    needed = disk_bytes(_PHOTO, _PHOTO.times(_SCALE), _SCALE, "png")
    free = max(0, free_bytes(config.data_dir) - DISK_RESERVE)
    if free < needed:
        megapixels = _PHOTO.pixels / 1e6 * free / needed
        found.append(
            f"{config.data_dir} has {free >> 20} MiB of disk for jobs: pictures of more than "
            f"about {megapixels:.1g} megapixels are refused at scale {_SCALE}. Make room there, or "
            "set storage.data_dir to a folder on a larger disk."
        )
    return found


def free_bytes(folder: Path) -> int:
    """Return what is free where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
