"""Errors for pictures that can't be decoded: broken ones and unsupported kinds."""

from __future__ import annotations

import re

from upscaled.errors import UnusablePictureError
from upscaled.formats import PictureFormat


def broken(kind: PictureFormat, what: str = "") -> UnusablePictureError:
    """Return the error for a damaged file of format ``kind``; ``what`` names the damaged part."""
    part = f" ({re.sub(r'[^ -~]', '?', what)[:160]})" if what else ""
    return UnusablePictureError(f"image decode failed: the {kind.label} file is broken{part}.")


def cut_off(kind: PictureFormat, where: str = "") -> UnusablePictureError:
    """Return the error for a file of format ``kind`` that ends too early."""
    part = f" ({where})" if where else ""
    return UnusablePictureError(
        f"image decode failed: the {kind.label} file is cut off before its end{part}."
    )


def unsupported(kind: PictureFormat, what: str) -> UnusablePictureError:
    """Return the error for a valid file of format ``kind`` that uses ``what``, unsupported here."""
    return UnusablePictureError(
        f"The {kind.label} file has {what}, which is not supported; "
        "save the picture as PNG with 8 or 16 bits a sample and send that."
    )
