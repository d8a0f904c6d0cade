"""Colour spaces that a file defines by a code or by primaries instead of an ICC profile.

The codes are those of ITU-T H.273, in PNG's cICP chunk and AVIF's nclx box. Primaries are in PNG's
cHRM chunk. Ordinary spaces get an ICC profile made for their primaries. HDR pictures (PQ and HLG,
ITU-R BT.2100) are mapped to sRGB.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FROM_NARROW = np.rint(np.clip((np.arange(256) - 16) / 219, 0, 1) * 255).astype(np.uint8)
"""Level from 0 to 255, by level in the narrow range, 16 to 235 (H.273, 8.3)."""
_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
_PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _DCI),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65),
    22: ((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), _D65),
}
"""Red, green, blue and white in x and y (H.273, table 2)."""
_LIKE_SRGB = frozenset({1, 2, 6, 13, 14, 15})
"""Transfer functions whose values are shown as sRGB's are; 2: unspecified."""
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
PQ, HLG = 16, 18

_WHITE_NITS = 203.0
"""Brightness of diffuse white in HDR pictures (ITU-R BT.2408)."""
_HLG_PEAK_NITS = 1000.0
_HLG_GAMMA = 1.2  # of the system, at that peak (ITU-R BT.2100)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
_CURVE_POINTS = 1024


@dataclass(frozen=True)
class CodedColours:
    primaries: tuple[tuple[float, float], ...]
    """Red, green, blue and white, in x and y."""
    transfer: int = 13
    """Code of the transfer function."""
    power: float | None = None
    """Exponent that converts a sample to light, if that is the transfer function."""

    @property
    def is_hdr(self) -> bool:
        """Whether it can show light brighter than white."""
        return self.transfer in {PQ, HLG}

    @property
    def has_srgb_primaries(self) -> bool:
        """Whether its primaries are visibly the same as sRGB's."""
        return bool(np.allclose(self.primaries, _PRIMARIES[1], atol=0.003))


def by_code(primaries: int, transfer: int) -> CodedColours | None:
    """Return the space of two codes of H.273; None where it is not supported."""
    found = _PRIMARIES.get(1 if primaries == 2 else primaries)
    if found is None or transfer not in _LIKE_SRGB | set(_POWERS) | {PQ, HLG}:
        return None
    return CodedColours(found, transfer, _POWERS.get(transfer))


def by_primaries(chromaticity: Sequence[float], gamma: float | None) -> CodedColours | None:
    """Return the space of a PNG's cHRM and gAMA chunks; None where they make no sense.

    Args:
        chromaticity: x and y of white, red, green and blue.
        gamma: the exponent that converts light to a sample, or None.
    """
    if len(chromaticity) != 8:
        return None
    white, *colours = zip(chromaticity[::2], chromaticity[1::2], strict=True)
    power = 1 / gamma if gamma else None
    space = CodedColours((*colours, white), 13, power)
    if any(y < 0.001 or not 0 <= x <= 1 for x, y in space.primaries):
        return None
    matrix = np.array([_xyz(place) for place in colours])
    return space if abs(np.linalg.det(matrix)) > 1e-3 else None


def levels_to_srgb(space: CodedColours) -> NDArray[np.uint8] | None:
    """Return the sRGB level of each of the 256 levels; None if they are the same."""
    # Within 5 % of sRGB's exponent a viewer shows the numbers as they are (PNG, 13.13).
    if space.power is None or abs(space.power / 2.2 - 1) <= 0.05:
        return None
    return _encoded(np.linspace(0, 1, 256) ** space.power)


def profile(space: CodedColours) -> bytes:
    """Return an ICC profile of the space's primaries with sRGB's transfer function."""
    columns = _to_d50(space.primaries[3]) @ _to_xyz(space.primaries)
    light = _decoded(np.linspace(0, 1, _CURVE_POINTS))
    values = np.rint(light * 65535).astype(">u2").tobytes()
    curve = b"curv" + bytes(4) + struct.pack(">I", _CURVE_POINTS) + values
    name = b"RGB by its primaries\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    letters = (b"r", b"g", b"b")
    tags = [
        (b"desc", described),
        (b"cprt", b"text" + bytes(4) + b"no copyright\0"),
        (b"wtpt", _xyz_tag(_D50)),
        *((letter + b"XYZ", _xyz_tag(columns[:, i])) for i, letter in enumerate(letters)),
        *((letter + b"TRC", curve) for letter in letters),
    ]
    table, data = struct.pack(">I", len(tags)), b""
    start, shared = 132 + 12 * len(tags), {}
    for tag, content in tags:
        if content not in shared:
            shared[content] = start + len(data)
            data += content + bytes(-len(content) % 4)
        table += tag + struct.pack(">II", shared[content], len(content))
    head = struct.pack(">I4sI", start + len(data), bytes(4), 0x02400000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(v * 65536)) for v in _D50)
    return head.ljust(128, b"\0") + table + data


class ToneMap:
    """Converts an HDR picture to sRGB.

    Brightness up to diffuse white stays the same if nothing is brighter. Otherwise the range above
    three quarters of white is compressed to make room for it (the curve of ITU-R BT.2390).
    """

    def __init__(self, space: CodedColours, brightest: int) -> None:
        self._hlg = space.transfer == HLG
        levels = np.linspace(0, 1, 256)
        self._light = _hlg_scene(levels) if self._hlg else _pq_nits(levels) / _WHITE_NITS
        peak = self._light[brightest]
        if self._hlg:
            peak = _HLG_PEAK_NITS / _WHITE_NITS * peak**_HLG_GAMMA
        self.compresses = bool(peak > 1.001)
        self._curve = _pq_levels(np.array([peak, 1.0]) * _WHITE_NITS) if self.compresses else None
        weights = _to_xyz(space.primaries)[1]
        self._weights = weights
        self._matrix = (
            np.linalg.inv(_to_xyz(_PRIMARIES[1])) @ _adapted(space.primaries[3], _D65)
        ) @ _to_xyz(space.primaries)

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the sRGB pixels of rows × columns × 3."""
        light = self._light[rgb]
        if self._hlg:
            luminance = np.maximum(light @ self._weights, 1e-6)[..., None]
            light = light * luminance ** (_HLG_GAMMA - 1) * (_HLG_PEAK_NITS / _WHITE_NITS)
        if self._curve is not None:
            brightest = np.maximum(light.max(axis=2, keepdims=True), 1e-6)
            light = light * (_compressed(brightest, *self._curve) / brightest)
        return _encoded(np.clip(light @ self._matrix.T, 0, 1))


def _compressed(light: Floats, peak: float, white: float) -> Floats:
    """Return light with the range up to ``peak`` compressed to ``white``, both as PQ levels."""
    most = white / peak
    knee = max(0.0, 1.5 * most - 0.5)
    level = _pq_levels(light * _WHITE_NITS) / peak
    t = np.clip((level - knee) / max(1 - knee, 1e-6), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    bent += (-2 * t**3 + 3 * t**2) * most
    return _pq_nits(np.where(level < knee, level, bent) * peak) / _WHITE_NITS


def _pq_nits(levels: Floats) -> Floats:
    """Return the light of PQ levels from 0 to 1 in nits (SMPTE ST 2084)."""
    power = np.maximum(levels, 0) ** (32 / 2523)
    part = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
    return np.asarray(10_000 * part ** (16384 / 2610))


def _pq_levels(nits: Floats) -> Floats:
    power = (np.maximum(nits, 0) / 10_000) ** (2610 / 16384)
    part = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return np.asarray(part ** (2523 / 32))


def _hlg_scene(levels: Floats) -> Floats:
    """Return the scene's light of HLG levels, both from 0 to 1 (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - c) / a) + b) / 12)


def _encoded(light: Floats) -> NDArray[np.uint8]:
    """Return light from 0 to 1 as sRGB's levels."""
    curved = 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    levels = np.where(light <= 0.0031308, 12.92 * light, curved)
    return np.asarray(np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8))


def _decoded(levels: Floats) -> Floats:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _xyz(place: tuple[float, float]) -> Floats:
    x, y = place
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _to_xyz(primaries: Sequence[tuple[float, float]]) -> Floats:
    """Return the matrix from a space's linear RGB to XYZ."""
    columns = np.array([_xyz(place) for place in primaries[:3]]).T
    return np.asarray(columns * np.linalg.solve(columns, _xyz(primaries[3])))


def _adapted(white: tuple[float, float], to: tuple[float, float]) -> Floats:
    return _adaptation(_xyz(white), _xyz(to))


def _to_d50(white: tuple[float, float]) -> Floats:
    return _adaptation(_xyz(white), _D50)


def _adaptation(white: Floats, to: Floats) -> Floats:
    """Return Bradford's matrix from one white to another."""
    gain = np.diag((_BRADFORD @ to) / (_BRADFORD @ white))
    return np.asarray(np.linalg.inv(_BRADFORD) @ gain @ _BRADFORD)


def _xyz_tag(values: Floats) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)
