"""The imaging that the settings ask for."""

from __future__ import annotations

from collections.abc import Collection

from upscaled.config.settings import Config
from upscaled.imaging import Imaging


def make_imaging(
    config: Config,
    formats: Collection[str] | None = None,
    max_megapixels: float | None = None,
) -> Imaging:
    """Return what decodes and encodes.

    Args:
        config: the settings.
        formats: what may be decoded; None: what may be uploaded.
        max_megapixels: the largest picture; None: the largest upload.
    """
    most = config.limits.max_input_megapixels if max_megapixels is None else max_megapixels
    return Imaging(
        workers=2,
        formats=frozenset(config.features.input_formats if formats is None else formats),
        memory_limit_mb=config.limits.imaging_memory_mb,
        max_pixels=int(most * 1_000_000),
    )
