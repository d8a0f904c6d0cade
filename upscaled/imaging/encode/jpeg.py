"""Encodes JPEG files a strip at a time.

Each strip is encoded as a file of its own, with a restart marker after every row of blocks. Data
after such a marker does not depend on data before it. So the coded pixels of all strips, joined by
restart markers, are those of one large picture (ITU-T T.81, E.1.4).
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from upscaled.errors import EngineError
from upscaled.formats import JPEG
from upscaled.imaging.encode.encoder import EncodedStrip
from upscaled.imaging.encode.fingerprint import Fingerprint
from upscaled.imaging.metadata.attached import Attached, jfif_density
from upscaled.imaging.raw import Pixels, picture
from upscaled.pictures import Size

_BLOCK = 8
_START_OF_FRAME, _START_OF_SCAN = b"\xff\xc0", b"\xff\xda"
_JFIF_DENSITY = slice(13, 18)
"""Follows marker, length, identifier and version."""
_RESTART, _END = b"\xff\xd7", b"\xff\xd9"


class JpegEncoder:
    """Makes the parts of a JPEG file (see `StripEncoder`).

    Args:
        size: of the picture.
        channels: 1 for grey, 3 for RGB.
        quality: 1 to 100.
        mean_error: levels by which a local mean may move.
        attached: profile and metadata.
    """

    # So all strips number their markers alike, and the last number is left for the one between
    # strips.
    multiple = JPEG.strip_rows
    start = 0

    def __init__(
        self, size: Size, channels: int, quality: int, mean_error: float, attached: Attached
    ) -> None:
        self._size = size
        self._channels = channels
        self._quality = quality
        self._mean_error = mean_error
        self._attached = attached

    def head(self) -> bytes:
        """Return the bytes before the pixels: those of a small picture, with the real height."""
        profile = {"icc_profile": self._attached.icc} if self._attached.icc else {}
        head = self._head(self._size.height, profile)
        end = 4 + struct.unpack_from(">H", head, 4)[0]  # of the JFIF segment, which is the first
        jfif = bytearray(head[:end])
        if self._attached.dpi is not None:
            jfif[_JFIF_DENSITY] = jfif_density(self._attached.dpi)
        return bytes(jfif) + self._attached.jpeg_segments() + head[end:]

    def _head(self, height: int, attached: dict[str, Any]) -> bytes:
        small = np.zeros((_BLOCK, self._size.width, self._channels), np.uint8)
        head, _ = _split(self._encoded(small, attached))
        at = _segment(head, _START_OF_FRAME)
        # Behind length and precision.
        return head[: at + 5] + struct.pack(">H", height) + head[at + 7 :]

    def strip(self, pixels: Pixels, top: int) -> EncodedStrip:
        """Encode ``pixels``, rows × columns × channels, which begin at row ``top``.

        Raises:
            EngineError: decoded again it differs more than its quality makes it.
        """
        encoded = self._encoded(pixels, {})
        with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
            found = Fingerprint.of(np.asarray(image))
        moved = Fingerprint.of(pixels).difference(found)
        if moved > self._mean_error:
            raise EngineError(
                f"The written file does not hold what was written: local averages differ by "
                f"{moved:.1f} levels around row {top}, {self._mean_error:.1f} are allowed."
            )
        _, scan = _split(encoded)
        return EncodedStrip((_RESTART if top else b"") + scan)

    def opened(self, strip: EncodedStrip, top: int, bottom: int) -> Pixels:
        """Return the pixels of rows ``top`` to ``bottom``, which are encoded in ``strip``.

        Raises:
            EngineError: it does not hold them.
        """
        scan = strip.content.removeprefix(_RESTART) if top else strip.content
        whole = io.BytesIO(self._head(bottom - top, {}) + scan + _END)
        try:
            with Image.open(whole, formats=["JPEG"]) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            words = f"The JPEG's rows from {top} on cannot be decoded: {error}."
            raise EngineError(words) from error
        return pixels.reshape(bottom - top, self._size.width, self._channels)

    def joined(self, state: int, strip: EncodedStrip) -> int:
        """Return the state, which a JPEG does not need."""
        return state

    def tail(self, state: int) -> bytes:
        return _END

    def _encoded(self, pixels: Pixels, attached: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        # Full colour resolution: halved, red lines and text fray.
        picture(pixels).save(
            file,
            "JPEG",
            quality=self._quality,
            subsampling="4:4:4",
            restart_marker_rows=1,
            **attached,
        )
        return file.getvalue()


def _segment(jpeg: bytes, marker: bytes) -> int:
    """Return the position of the first segment of this kind."""
    at = 2
    while jpeg[at : at + 2] != marker:
        at += 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    return at


def _split(jpeg: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before the coded pixels, and the coded pixels without the end marker."""
    at = _segment(jpeg, _START_OF_SCAN)
    scan = at + 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
    return jpeg[:scan], jpeg[scan : -len(_END)]
