"""README's picture: part of a photo enlarged by interpolation, and by upscaled.

``scripts/before-after`` writes it anew, with the official models in ``models/``.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from PIL import Image

from testkit.paths import DATA, ROOT
from upscaled.commands.upscale import upscale_file
from upscaled.config.sources import load

TARGET = ROOT / "docs" / "images" / "before-after.webp"

_PHOTO = DATA / "chelsea.webp"
_PART = (110, 75, 290, 205)
"""Left, upper, right, lower edge in the photo, in pixels."""
_SCALE = 4
_GAP = 8
_QUALITY = 82


async def make(target: Path) -> None:
    """Write the picture: before on the left, after on the right, a white gap between them."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.png"), Path(folder, "large.png")
        with Image.open(_PHOTO) as photo:
            part = photo.convert("RGB").crop(_PART)
        part.save(small)
        await upscale_file(
            load(ROOT / "config.yaml"), small, large, {"scale": str(_SCALE)}, lambda _: None
        )
        after = Image.open(large).convert("RGB")
    before = part.resize(after.size, Image.Resampling.BICUBIC)
    pair = Image.new("RGB", (2 * after.width + _GAP, after.height), "white")
    pair.paste(before, (0, 0))
    pair.paste(after, (after.width + _GAP, 0))
    target.parent.mkdir(exist_ok=True)
    pair.save(target, quality=_QUALITY, method=6)


if __name__ == "__main__":
    asyncio.run(make(TARGET))
