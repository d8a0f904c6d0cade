"""Measurements of the official networks, so that a first start need not repeat them.

They are identified by the SHA-256 of both files, since the same bytes behave the same. A test
measures them again.
"""

from __future__ import annotations

from pathlib import Path

from upscaled.engines.builtin.protocol import Findings
from upscaled.files import sha256_of
from upscaled.models.packs import OFFICIAL

_FINDINGS = {
    "realesrgan-x4plus": Findings(native_scale=4, bytes_per_pixel=67_748),
    "realesrgan-x4plus-anime": Findings(native_scale=4, bytes_per_pixel=66_970),
    "realesr-animevideov3-x2": Findings(native_scale=2, bytes_per_pixel=3_956),
    "realesr-animevideov3-x3": Findings(native_scale=3, bytes_per_pixel=4_113),
    "realesr-animevideov3-x4": Findings(native_scale=4, bytes_per_pixel=4_336),
}
"""By official file stem; measured on x86-64 with AVX-512."""

_BY_DIGESTS = {
    (network.param_sha256, network.bin_sha256): _FINDINGS[stem]
    for stem, network in OFFICIAL.networks.items()
}


def official_findings(param: Path, weights: Path) -> Findings | None:
    """Return the measurements of an official network, None for any other; reads both files.

    Raises:
        OSError: a file can't be read.
    """
    return _BY_DIGESTS.get((sha256_of(param), sha256_of(weights)))
