"""Downloads the official small network for photos: ``upscaled setup --photo-fast``.

It is published as a PyTorch file only, so it is converted and checked like any imported model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from upscaled.commands.download import downloaded
from upscaled.errors import UpscaledError
from upscaled.models.conversion.imported import Imported
from upscaled.models.conversion.importing import import_model
from upscaled.models.conversion.request import ImportRequest, Words
from upscaled.timing.speeds import SMALL_FOR_PHOTOS

NAME = SMALL_FOR_PHOTOS


@dataclass(frozen=True)
class Release:
    """A published file and its SHA-256."""

    url: str
    sha256: str


RELEASE = Release(
    f"https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.5.0/{NAME}.pth",
    # Several projects pin the same value for this file of 4,885,111 bytes.
    "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
)
_LICENSE = "BSD-3-Clause"
_AUTHOR = "Xintao Wang and others"
_DESCRIPTION = "Photos, small and quick"
_ORIGIN = "https://github.com/xinntao/Real-ESRGAN"
_MOST_BYTES = 50 << 20


async def install_photo_fast(
    models_dir: Path,
    *,
    replace: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    release: Release = RELEASE,
) -> Imported:
    """Download the network, verify its SHA-256, convert it and check the conversion.

    Raises:
        UpscaledError: one of these failed; the message says what to do instead.
    """
    advice = (
        f"Download it in another way, then type: upscaled models import {NAME}.pth "
        f'--license {_LICENSE} --author "{_AUTHOR}" --description "{_DESCRIPTION}" '
        f"--origin {_ORIGIN}"
    )
    on_step("downloading")
    try:
        async with downloaded(
            release.url, models_dir, sha256=release.sha256, most=_MOST_BYTES, advice=advice
        ) as file:
            request = ImportRequest(
                file, NAME, _LICENSE, _AUTHOR, _DESCRIPTION, _ORIGIN, replace=replace,
                words=Words(taken="add --force to replace it"),
            )  # fmt: skip
            return await import_model(request, models_dir, on_step=on_step)
    except OSError as error:
        raise UpscaledError(f"{models_dir} can't be written: {error.strerror}.") from None
