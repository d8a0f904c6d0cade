"""Compare how our decoder and libvips see pictures.

    python -m bench.decoders FOLDER [--megapixels 0.5] [--list]

Needs the program ``vips`` (Debian: libvips-tools). Each picture that we take is decoded by both,
reduced to at most 256 pixels a side and laid on white; a mean difference above 6 levels is
listed. So is what only one of the two decodes. Pillow's source archive has a good thousand
pictures that once made trouble, in ``Tests/images``:

    pip download --no-binary pillow --no-deps pillow

The exit status is 1 when a picture looks different to the two.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from testkit.imaging import pixels_of
from upscaled.errors import NotAPictureError, UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.colour import profile_to_srgb
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.metadata.sidecar import Metadata

_SIDE = 256
_LIMIT = 6.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megapixels", type=float, default=0.5)
    parser.add_argument("--list", action="store_true", help="list what is refused as well")
    options = parser.parse_args(arguments)
    if shutil.which("vips") is None:
        print("The program vips is missing; install libvips-tools.")
        return 2
    verdicts: Counter[str] = Counter()
    for path in sorted(p for p in options.folder.rglob("*") if p.is_file()):
        with tempfile.TemporaryDirectory() as folder:
            verdict, words = _verdict(path, Path(folder), round(options.megapixels * 1e6))
        verdicts[verdict] += 1
        if verdict == "different" or (options.list and verdict not in {"same", "not taken"}):
            print(f"{verdict:16} {path.relative_to(options.folder)}: {words}")
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
    return 1 if verdicts["different"] else 0


def _verdict(path: Path, folder: Path, most: int) -> tuple[str, str]:
    try:
        prepared = prepare(path, folder, INPUT_NAMES, most)
    except NotAPictureError as error:
        return "not taken", error.message
    except UnusablePictureError as error:
        seen = "refused, and by vips" if _by_vips(path, folder) is None else "refused"
        return seen, error.message
    colour = Image.fromarray(pixels_of(prepared.source))
    if prepared.sidecar is not None and (icc := Metadata.load(prepared.sidecar).icc):
        colour = ImageCms.applyTransform(colour, profile_to_srgb(icc)) or colour
    if prepared.alpha is not None:
        alpha = Image.fromarray(pixels_of(prepared.alpha)[..., 0])
        colour.putalpha(alpha)
    ours, theirs = colour, _by_vips(path, folder)
    if theirs is None:
        return "ours alone", "vips cannot decode it"
    if ours.size != theirs.size:
        return "different", f"{ours.size} and {theirs.size} pixels"
    difference = float(np.abs(_looks(ours) - _looks(theirs)).mean())
    return ("different" if difference > _LIMIT else "same"), f"by {difference:.1f} levels"


def _by_vips(path: Path, folder: Path) -> Image.Image | None:
    """Return the picture as libvips decodes it: turned, in sRGB, 8 bits."""
    plain, turned, made = (folder / name for name in ("plain.v", "turned.v", "theirs.png"))
    steps = (
        ["vips", "autorot", str(path), str(plain)],
        ["vips", "icc_transform", str(plain), str(turned), "srgb", "--embedded",
         "--intent", "relative", "--black-point-compensation"],
        ["vips", "colourspace", str(turned), f"{made}[strip]", "srgb"],
    )  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, check=False, timeout=120)
        if done.returncode and step[1] == "icc_transform":  # the picture has no profile
            shutil.copy(plain, turned)
        elif done.returncode:
            return None
    with Image.open(made) as image:
        if image.mode.startswith("I"):
            deep = np.asarray(image).astype(np.float64)
            return Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGBA")
        return image.convert("RGBA")


def _looks(image: Image.Image) -> NDArray[np.float64]:
    white = Image.new("RGBA", image.size, "white")
    laid = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    laid.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(laid).astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
