"""Photos and generated pictures of many kinds, for tests that must hold for any picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from testkit.paths import DATA

Pixels = NDArray[np.uint8]
Draw = Callable[[np.random.Generator, int], Image.Image]

_WORDS = "The quick brown fox jumps over 13 lazy dogs; ÄÖÜ ß été, 0123456789 (a+b)² = €42.50"


@dataclass(frozen=True)
class Picture:
    """One picture: its kind, its number within the kind, and height × width × 3 bytes."""

    kind: str
    number: int
    pixels: Pixels


_photos = [
    Image.open(DATA / name).convert("RGB")
    for name in ("astronaut.png", "coffee.jpg", "chelsea.webp")
]


def _photo(rng: np.random.Generator, side: int) -> Image.Image:
    photo = _photos[rng.integers(len(_photos))]
    cut = min(int(side * rng.choice([1, 1, 2, 3])), photo.width, photo.height)
    left, top = (int(rng.integers(length - cut + 1)) for length in photo.size)
    part = photo.crop((left, top, left + cut, top + cut))
    return part.resize((side, side), Image.Resampling.LANCZOS)


def _changed(image: Image.Image, change: Callable[[NDArray[np.float64]], object]) -> Image.Image:
    values = change(np.asarray(image).astype(np.float64))
    return Image.fromarray(np.clip(np.rint(np.asarray(values)), 0, 255).astype(np.uint8))


def _night(rng: np.random.Generator, side: int) -> Image.Image:
    share, grain = rng.uniform(0.03, 0.25), rng.uniform(0, 6)
    return _changed(_photo(rng, side), lambda v: v * share + rng.normal(0, grain, v.shape))


def _grainy(rng: np.random.Generator, side: int) -> Image.Image:
    grain = rng.uniform(10, 60)
    return _changed(_photo(rng, side), lambda v: v + rng.normal(0, grain, v.shape))


def _jpeg(rng: np.random.Generator, side: int) -> Image.Image:
    file = io.BytesIO()
    source = _photo(rng, side) if rng.random() < 0.6 else _text(rng, side)
    source.save(file, "JPEG", quality=int(rng.integers(2, 20)))
    return Image.open(file).convert("RGB")


def _noise(rng: np.random.Generator, side: int) -> Image.Image:
    shape = (side, side, 3 if rng.random() < 0.5 else 1)
    values = rng.choice(["uniform", "normal", "salt"])
    made: NDArray[np.generic]
    if values == "uniform":
        made = rng.integers(0, 256, shape)
    elif values == "normal":
        made = rng.normal(rng.uniform(30, 220), rng.uniform(5, 80), shape)
    else:
        made = rng.choice([0, 128, 255], shape, p=[0.1, 0.8, 0.1])
    return Image.fromarray(np.clip(np.broadcast_to(made, (side, side, 3)), 0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.5:
        red, green, blue = (int(v) for v in rng.choice([0, 255], 3))
    else:
        red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def _flat(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), _colour(rng))


def _gradient(rng: np.random.Generator, side: int) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side] / side
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    if rng.random() < 0.3:
        along = np.hypot(rows - 0.5, columns - 0.5) * 1.4
    along = (along - along.min()) / (along.max() - along.min())
    start, end = np.array(_colour(rng)), np.array(_colour(rng))
    return Image.fromarray(np.rint(start + along[..., None] * (end - start)).astype(np.uint8))


def _text(rng: np.random.Generator, side: int) -> Image.Image:
    plain = rng.random() < 0.5
    paper, ink = ((255, 255, 255), (0, 0, 0)) if plain else (_colour(rng), _colour(rng))
    image = Image.new("RGB", (side, side), paper)
    draw, size, y = ImageDraw.Draw(image), float(rng.uniform(7, 30)), 0.0
    font = ImageFont.load_default(size)
    while y < side:
        start = int(rng.integers(len(_WORDS) - 10))
        draw.text((float(rng.uniform(-5, 5)), y), _WORDS[start:], ink, font)
        y += size * 1.2
    return image


def _line_art(rng: np.random.Generator, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), (255, 255, 255) if rng.random() < 0.6 else _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 14))):
        box = [int(v) for v in rng.integers(-10, side + 10, 4)]
        ordered = sorted(box[::2])[:1] + sorted(box[1::2])[:1] + [max(box[::2]), max(box[1::2])]
        kind, width = rng.integers(4), int(rng.integers(1, 4))
        ink = (0, 0, 0) if rng.random() < 0.5 else _colour(rng)
        if kind == 0:
            draw.line(box, ink, width)
        elif kind == 1:
            draw.ellipse(ordered, outline=ink, width=width)
        elif kind == 2:
            draw.polygon([int(v) for v in rng.integers(0, side, 6)], _colour(rng), ink)
        else:
            draw.rectangle(ordered, _colour(rng) if rng.random() < 0.5 else None, ink, width)
    return image


def _dither(rng: np.random.Generator, side: int) -> Image.Image:
    source = _photo(rng, side) if rng.random() < 0.7 else _gradient(rng, side)
    return source.convert("1").convert("RGB")


def _pattern(rng: np.random.Generator, side: int) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side]
    period, kind = int(rng.choice([1, 1, 2, 3, 4, 5, 8])), rng.integers(4)
    if kind == 0:
        on = (rows // period + columns // period) % 2
    elif kind == 1:
        on = columns // period % 2
    elif kind == 2:
        on = (rows + columns) // period % 2
    else:  # a zone plate: every spatial frequency
        on = np.cos((rows**2 + columns**2) * np.pi / side / rng.uniform(0.8, 3)) / 2 + 0.5
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    return Image.fromarray(np.rint(first + on[..., None] * (second - first)).astype(np.uint8))


def _thin(rng: np.random.Generator, side: int) -> Image.Image:
    makers: list[Draw] = [_photo, _noise, _gradient, _text]
    source = makers[rng.integers(len(makers))](rng, side)
    width, height = [(1, side), (side, 1), (2, 3), (1, 1), (3, side), (side, 2), (5, 7)][
        rng.integers(7)
    ]
    return source.crop((0, 0, width, height))


def _pixel_art(rng: np.random.Generator, side: int) -> Image.Image:
    small = max(1, side // int(rng.choice([4, 6, 8])))
    colours = np.array([_colour(rng) for _ in range(int(rng.integers(2, 12)))])
    cells = colours[rng.integers(len(colours), size=(small, small))].astype(np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST)


def _screen(rng: np.random.Generator, side: int) -> Image.Image:
    image = _text(rng, side)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, side, side // 6), _colour(rng))
    image.paste(_photo(rng, side // 2), (side // 3, side // 3))
    draw.rectangle((side // 8, side // 2, side // 2, side // 2 + 12), (240, 240, 240), (90, 90, 90))
    return image


KINDS: dict[str, tuple[int, Draw]] = {
    "photo": (80, _photo),
    "night shot": (25, _night),
    "grainy photo": (20, _grainy),
    "heavy JPEG": (25, _jpeg),
    "noise": (20, _noise),
    "flat colour": (12, _flat),
    "gradient": (18, _gradient),
    "text": (28, _text),
    "line art": (28, _line_art),
    "1-bit dither": (15, _dither),
    "pattern": (25, _pattern),
    "1 px wide, tiny": (15, _thin),
    "pixel art": (12, _pixel_art),
    "screen shot": (12, _screen),
}
"""By kind: how many pictures the whole gallery has, and the function that makes one."""


def gallery(side: int, *, share: float = 1.0, seed: int = 20) -> Iterator[Picture]:
    """Yield the gallery's pictures, ``side`` pixels wide and high except for the thin ones.

    The same arguments give the same pictures.
    """
    for index, (kind, (count, make)) in enumerate(KINDS.items()):
        for number in range(max(1, round(count * share))):
            rng = np.random.default_rng((seed, index, number))
            yield Picture(kind, number, np.array(make(rng, side)))
