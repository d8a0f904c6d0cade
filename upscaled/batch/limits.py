"""``--only-below``: a limit on the size of pictures that are worth upscaling."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upscaled.errors import BadRequestError
from upscaled.pictures import Size


@dataclass(frozen=True)
class SizeLimit:
    """Pictures below it are taken; None: any."""

    width: int | None = None
    height: int | None = None
    pixels: float | None = None

    @classmethod
    def parse(cls, text: str) -> SizeLimit:
        """Return the limit that ``1600x1200``, ``2MP`` or ``2`` means; the latter in megapixels.

        Raises:
            BadRequestError: it is none of these.
        """
        if sides := re.fullmatch(r"(\d{1,6})\s*[x×]\s*(\d{1,6})", text.strip(), re.IGNORECASE):
            return cls(int(sides[1]), int(sides[2]))
        if area := re.fullmatch(r"(\d{1,6}(?:[.]\d{1,6})?)\s*(?:MP)?", text.strip(), re.IGNORECASE):
            return cls(pixels=float(area[1]) * 1_000_000)
        raise BadRequestError(
            f"--only-below is {text!r}; it must be a size such as 1600x1200, or megapixels "
            "such as 2MP."
        )

    def takes(self, size: Size) -> bool:
        """Tell whether a picture is below the limit: both sides, in either orientation."""
        if self.pixels is not None:
            return size.pixels < self.pixels
        if self.width is None or self.height is None:
            return True
        longer, shorter = max(self.width, self.height), min(self.width, self.height)
        return max(size.width, size.height) < longer and min(size.width, size.height) < shorter
