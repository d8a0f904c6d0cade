"""A substitute for inference, and helpers for the imaging tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled.imaging import Band, Finished, FinishOptions, Imaging, Prepared
from upscaled.pictures import RawImage

Pixels = NDArray[np.uint8]


def pixels_of(raw: RawImage) -> Pixels:
    """Return a raw picture as rows × columns × channels."""
    flat = np.frombuffer(raw.path.read_bytes(), np.uint8)
    return flat.reshape(raw.size.height, raw.size.width, raw.channels)


def stored(pixels: Pixels, path: Path) -> RawImage:
    """Write rows × columns × channels to ``path``."""
    from upscaled.pictures import Size

    path.write_bytes(np.ascontiguousarray(pixels).tobytes())
    return RawImage(path, Size(pixels.shape[1], pixels.shape[0]), pixels.shape[2])


def enlarged(prepared: Prepared, scale: int = 2) -> RawImage:
    """Enlarge ``prepared`` as an engine does, but with Lanczos."""
    source = Image.fromarray(pixels_of(prepared.source))
    size = (source.width * scale, source.height * scale)
    native = np.asarray(source.resize(size, Image.Resampling.LANCZOS))
    return stored(native, prepared.source.path.with_name("native.rgb"))


async def finished(
    imaging: Imaging, prepared: Prepared, native: RawImage, folder: Path, options: FinishOptions
) -> Finished:
    """Finish a picture that consists of one band."""
    band = Band(0, prepared.source.size.height)
    written = await imaging.finish(prepared, native, folder, options, band)
    assert written.finished is not None
    path = folder / f"result.{options.format}"
    written.finished.path.replace(path)  # as the server seals it
    return replace(written.finished, path=path)
