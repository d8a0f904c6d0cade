"""The settings of the section ``archives``."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.config.types import setting as _setting


@dataclass(frozen=True)
class ArchiveSettings:
    """Archives whose pages are upscaled (POST /archives)."""

    max_size_mb: int = _setting(
        2048, "Largest archive that may be uploaded, in MiB.", minimum=1, maximum=100_000
    )
    max_entries: int = _setting(
        10_000, "Largest number of files and folders in an archive.", minimum=1, maximum=65_535
    )
    max_entry_mb: int = _setting(
        512, "Largest unpacked file of an archive, in MiB.", minimum=1, maximum=100_000
    )
    max_unpacked_mb: int = _setting(
        16_384, "Largest unpacked size of an archive, in MiB.", minimum=1, maximum=1_000_000
    )
    max_ratio: int = _setting(
        200,
        "Unpacked bytes for each byte of an archive; what unpacks to less than 256 MiB may have "
        "any ratio.",
        minimum=1,
        maximum=100_000,
    )
    max_per_client: int = _setting(
        4,
        "Archives of one client (its token, else its address) that are worked on at a time; "
        "further ones are refused with 503.",
        minimum=1,
        maximum=1000,
    )
    max_under_way: int = _setting(
        32,
        "Archives of all clients that are worked on at a time; further ones are refused with 503.",
        minimum=1,
        maximum=1000,
    )
