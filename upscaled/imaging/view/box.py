"""`Box`: a part of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.errors import BadRequestError
from upscaled.pictures import Size


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels of the picture as it is seen.

    Without a position it is the middle; without a size it is as large as it may be.
    """

    left: int | None
    top: int | None
    width: int | None
    height: int | None
    most_pixels: int
    """Largest part that may be cut out."""

    def within(self, size: Size) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in a picture of ``size``.

        Raises:
            BadRequestError: it has too many pixels, or does not lie within the picture.
        """
        width, height = self._sides(size)
        left = max(0, size.width - width) // 2 if self.left is None else self.left
        top = max(0, size.height - height) // 2 if self.top is None else self.top
        if left + width > size.width or top + height > size.height:
            raise BadRequestError(
                f"The part of {width}×{height} pixels at {left}, {top} is not within the picture "
                f"of {size}."
            )
        if width * height > self.most_pixels:
            raise BadRequestError(
                f"The part has {width * height} pixels; at most {self.most_pixels} are allowed."
            )
        return left, top, left + width, top + height

    def _sides(self, size: Size) -> tuple[int, int]:
        side, most = int(self.most_pixels**0.5), self.most_pixels
        if self.width is not None and self.height is not None:
            return self.width, self.height
        if self.width is not None:
            return self.width, max(1, min(size.height, most // self.width))
        if self.height is not None:
            return max(1, min(size.width, most // self.height)), self.height
        if size.height <= side:
            return min(size.width, most // size.height), size.height
        width = min(size.width, side)
        return width, min(size.height, most // width)
