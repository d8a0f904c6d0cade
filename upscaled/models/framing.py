"""Frames for networks that return less than they get: with one, they return all of it.

Some families compute without padding, so their result lacks a margin on each side; their own
programs enlarge each tile by that margin first. Here the network does so itself. Pixels that this
makes wrong lie in the engine's padding, which is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.engines.param_file import MAGIC

_DATA, _OUTPUT = "data", "output"
"""The names of the blobs that the native programs ask for."""


@dataclass(frozen=True)
class Frame:
    """What a network lacks."""

    margin: int
    """Pixels of the input that the output lacks on each side."""
    scale: int
    reflects: bool = False
    """Its own program continues a picture beyond its edges by reflecting it; else by repeating the
    outermost pixels. The engine then does the same (`upscaled.engines.param_file`)."""
    multiple: int = 1
    """What the sides of its input must be multiples of."""


def framed(param: str, frame: Frame) -> str:
    """Return a network's ``.param`` in a frame, its blobs named as the native programs want.

    Its first layer must be the input, and its last one must make the output.
    """
    header, _, *lines = param.splitlines()
    assert header == MAGIC, header  # noqa: S101 - its digest was compared
    layers = [line.split() for line in lines if line.strip()]
    entry, result = layers[0][4], layers[-1][4 + int(layers[-1][2])]
    margin, more = frame.margin, frame.margin + frame.multiple - 1
    sides = f"0={margin} 1={more} 2={margin} 3={more} 4={2 if frame.reflects else 1}"
    if frame.multiple == 1:
        inner = "padded"
        names = {entry: inner, result: _OUTPUT}
        before = [f"Padding pad 1 1 {_DATA} {inner} {sides}"]
        after: list[str] = []
    else:
        # Squares of pixels become channels and pixels again: a remainder is dropped.
        inner = "even"
        names = {entry: inner}
        before = [
            f"Split copy 1 2 {_DATA} {_DATA}_0 {_DATA}_1",
            f"Padding pad 1 1 {_DATA}_0 padded {sides}",
            f"Reorg square 1 1 padded squares 0={frame.multiple}",
            f"PixelShuffle unsquare 1 1 squares {inner} 0={frame.multiple}",
        ]
        after = [
            f"Interp size 1 1 {_DATA}_1 sized 0=1 1={frame.scale}.0 2={frame.scale}.0",
            f"Crop cut 2 1 {result} sized {_OUTPUT}",
        ]
    own = []
    for layer in layers[1:]:
        end = 4 + int(layer[2]) + int(layer[3])
        blobs = [names.get(blob, blob) for blob in layer[4:end]]
        own.append(" ".join([*layer[:4], *blobs, *layer[end:]]))
    made = [f"Input {_DATA} 0 1 {_DATA}", *before, *own, *after]
    blobs_made = sum(int(line.split()[3]) for line in made)
    return "\n".join([header, f"{len(made)} {blobs_made}", *made, ""])
