"""Turns an upload into clean pixels: decoded completely, oriented, colour-managed, 8-bit RGB."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from upscaled.errors import UnusablePictureError
from upscaled.imaging import alpha as alphas
from upscaled.imaging.decode.colour import Colours, profile_to_srgb
from upscaled.imaging.decode.reader import TURNED, Opened, decoder_refusal, open_picture
from upscaled.imaging.decode.witness import compare_with_witness, has_witness
from upscaled.imaging.grey import CONVERTED_SPREAD, converted_levels, make_grey, spread
from upscaled.imaging.metadata.collect import collect
from upscaled.imaging.prepared import ALPHA, SIDECAR, SOURCE, Prepared
from upscaled.imaging.raw import RowWriter, read_rows, strips
from upscaled.pictures import RawImage

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def prepare(upload: Path, workdir: Path, formats: Collection[str], max_pixels: int) -> Prepared:
    """Decode ``upload`` into ``workdir``: ``source.rgb``, ``source.alpha``, ``source.meta``.

    Raises:
        NotAPictureError: it is of none of ``formats``.
        UnusablePictureError: it cannot be decoded completely, or not be upscaled.
        OSError: the files cannot be written.
    """
    opened = open_picture(upload, formats, max_pixels)
    with opened:
        witnessed = opened.page is not None and has_witness(opened.page)
        turned = opened.orientation in TURNED
        load_turned(opened)
        size = opened.size
        if witnessed:
            compare_with_witness(upload, opened.format, opened.image)
        colours = Colours(opened)
        source = RawImage(workdir / SOURCE, size)
        alpha, channel_spread = _write(colours, source, workdir / ALPHA)
        grey = _made_grey(colours, source, channel_spread)
    found, told, missing = collect(
        upload, opened.format, opened.image, opened.exif, colours.icc, turned=turned
    )
    kept = colours.kept + told
    lost = opened.lost + colours.lost + [words for words in missing if words not in opened.lost]
    sidecar = None
    if colours.icc or told:
        sidecar = workdir / SIDECAR
        found.save(sidecar)
    if alpha is not None:
        kept.append("transparency")
    return Prepared(source, alpha, sidecar, tuple(kept), tuple(lost), grey)


def load_turned(opened: Opened) -> None:
    """Decode a picture, and turn it as its EXIF orientation says.

    Raises:
        UnusablePictureError: it can't be decoded completely.
    """
    expected = opened.size
    _decode(opened)
    if opened.size != expected:
        raise UnusablePictureError(
            f"image decode failed: the header says {expected}, the picture is {opened.size}."
        )
    _turn(opened)


def _decode(opened: Opened) -> None:
    try:
        opened.load()
    except MemoryError:
        raise UnusablePictureError(
            f"image decode failed: {opened.size} pixels need more memory than a picture may use."
        ) from None
    except UnusablePictureError:
        raise
    except Exception as error:  # decoders raise anything for broken bytes
        raise decoder_refusal(opened.format, error) from error


def _turn(opened: Opened) -> None:
    if opened.orientation != 1:
        info = opened.image.info
        turned = opened.image.transpose(_TURN[opened.orientation])
        turned.info, turned.format = info, opened.image.format
        opened.image.close()
        if opened.alpha is not None:
            alpha = Image.fromarray(opened.alpha).transpose(_TURN[opened.orientation])
            opened.alpha = np.asarray(alpha)
        opened.image, opened.orientation = turned, 1


def _made_grey(colours: Colours, source: RawImage, channel_spread: int) -> bool:
    """Tell whether the picture is grey; if so, make its pixels exactly grey, in sRGB."""
    if channel_spread > (CONVERTED_SPREAD if colours.opened.one_channel else 0):
        return False
    levels = None
    if colours.icc:
        levels = converted_levels(profile_to_srgb(colours.icc))
        if levels is None:
            return False
        colours.icc = b""
        colours.kept[colours.kept.index("ICC profile")] = (
            "grey converted from the file's RGB profile to sRGB"
        )
    if levels is not None or channel_spread:
        make_grey(source, levels)
    return True


def _write(colours: Colours, source: RawImage, alpha_path: Path) -> tuple[RawImage | None, int]:
    """Write the source's rows.

    Returns:
        Its alpha channel if it has one that matters, and the `spread` of its visible colours.
    """
    alpha = RawImage(alpha_path, source.size, 1)
    opaque, seen, widest = True, False, 0
    blocks = []
    with RowWriter(source.path) as colour_file, RowWriter(alpha_path) as alpha_file:
        for top, bottom in strips(source.size.height, 4 * source.size.width, alphas.BLOCK):
            rgb, part = colours.rgb_and_alpha(top, bottom)
            colour_file.write(rgb)
            widest = max(widest, spread(rgb if part is None else rgb * (part > 0)[..., None]))
            if part is not None:
                seen = True
                alpha_file.write(part)
                opaque = opaque and bool((part == 255).all())
                blocks.append(alphas.coarse(rgb, part))
    if not seen or opaque:
        alpha_path.unlink()
        return None, widest
    behind = alphas.fill(np.concatenate(blocks))
    with source.path.open("r+b") as colour_file:
        for top, bottom in strips(source.size.height, 4 * source.size.width, alphas.BLOCK):
            rgb, part = read_rows(source, top, bottom), read_rows(alpha, top, bottom)[..., 0]
            near = behind[top // alphas.BLOCK : -(-bottom // alphas.BLOCK)]
            colour_file.seek(top * source.row_bytes)
            colour_file.write(alphas.bleed(rgb, part, near).tobytes())
    return alpha, widest
