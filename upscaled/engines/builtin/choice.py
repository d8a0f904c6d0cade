"""The choice of the quickest method to run a network, from what was measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import PADDING

LEAST_DB = 50.0
"""Least agreement with ncnn in 32 bits, on each test picture, that a library needs to be chosen."""
FAST_DB = 40.0
"""The same for callers who want it fast: bfloat16 throughout x4plus has 45 dB on smooth slopes."""
_LEVEL = 1.02
"""Times within this factor of each other count as equal; then 32 bits are preferred."""
_FLAT = 1.03
"""A larger tile must be slower than this factor to be avoided."""


@dataclass(frozen=True)
class Pace:
    """The measured time of one method with tiles of one size. A format on disk."""

    library: CpuLibrary
    threads: int
    """That work on one tile."""
    at_once: int
    """Tiles side by side."""
    side: int
    """Pixels, without padding."""
    seconds_per_pixel: float
    """Of the whole engine, for each padded pixel."""
    memory_mb: int
    """Peak of the process."""

    @property
    def seconds_per_megapixel(self) -> float:
        """Time for a million pixels of a picture, padding included."""
        return self.seconds_per_pixel * 1e6 * ((self.side + 2 * PADDING) / self.side) ** 2


@dataclass(frozen=True)
class Table:
    """All that was measured of a network. A format on disk: fields may be added, not changed."""

    name: str
    paces: tuple[Pace, ...] = ()
    decibels: dict[CpuLibrary, dict[str, float]] = field(default_factory=dict)
    """Agreement with ncnn in 32 bits, by library and test picture."""
    failures: dict[CpuLibrary, str] = field(default_factory=dict)
    """Why a library can't run the network here, as a sentence."""
    unmeasured: int = 0
    """Methods that are left. As long as there are some, nothing is chosen."""
    doubt: float = 0.0
    """How many times longer jobs take than was measured, if that is far from what it should be."""

    @property
    def final(self) -> bool:
        """Whether it need not be measured again."""
        return not (self.unmeasured or self.doubt)

    def least_db(self, library: CpuLibrary) -> float | None:
        """Return the worst agreement of a library; None: it is the one compared with."""
        found = self.decibels.get(library)
        return min(found.values()) if found else None

    def holds(self, library: CpuLibrary, least_db: float = LEAST_DB) -> bool:
        """Return whether a library's pictures are good enough."""
        least = self.least_db(library)
        return library not in self.failures and (least is None or least >= least_db)


def choose(table: Table) -> CpuMethod | None:
    """Return the quickest method for pictures of many tiles; None: nothing to choose from."""
    usable = _usable(table)
    best = _preferred(usable)
    return (
        None
        if best is None
        else CpuMethod(best.library, _cap(usable, best), _doubling(usable, best))
    )


def quickest(table: Table) -> float | None:
    """Return the seconds of the chosen method for each padded pixel of large pictures, all cores
    working; None as `choose`.
    """
    best = _preferred(_usable(table))
    return None if best is None else best.seconds_per_pixel


def choose_fast(table: Table) -> CpuMethod | None:
    """Return the quickest method for callers who accept `FAST_DB`; None as `choose`."""
    usable = _usable(table, FAST_DB)
    if not usable:
        return None
    best = min(usable, key=lambda pace: pace.seconds_per_megapixel)
    return CpuMethod(best.library, _cap(usable, best), _doubling(usable, best), fast=True)


def choose_for_small(table: Table) -> CpuMethod | None:
    """Return the quickest method for pictures of a single small tile; None as `choose`.

    What counts is the smallest tile size that was measured, with a thread for each picture: small
    pictures share the engine.
    """
    usable = _usable(table)
    smallest = min((pace.side for pace in usable), default=0)
    least = min((pace.threads for pace in usable), default=0)
    best = _preferred([p for p in usable if p.side == smallest and p.threads == least])
    return None if best is None else CpuMethod(best.library, 0, _doubling(usable, best))


def _usable(table: Table, least_db: float = LEAST_DB) -> list[Pace]:
    """Return the methods to choose from: none as long as some were not measured."""
    if table.unmeasured:
        return []
    return [pace for pace in table.paces if table.holds(pace.library, least_db)]


def _preferred(paces: Sequence[Pace]) -> Pace | None:
    """Return the quickest; of those that are about as quick, one in 32 bits."""
    if not paces:
        return None
    quickest = min(pace.seconds_per_megapixel for pace in paces)
    level = [pace for pace in paces if pace.seconds_per_megapixel <= quickest * _LEVEL]
    return min(
        level,
        key=lambda pace: (pace.library is CpuLibrary.OPENVINO_BF16, pace.seconds_per_megapixel),
    )


def _cap(paces: Sequence[Pace], best: Pace) -> int:
    """Return the largest tile side worth using; 0: the largest that was measured is."""
    larger = [
        pace
        for pace in paces
        if (pace.library, pace.threads) == (best.library, best.threads) and pace.side > best.side
    ]
    good = [
        pace for pace in larger if pace.seconds_per_megapixel <= best.seconds_per_megapixel * _FLAT
    ]
    if not larger or len(good) == len(larger):
        return 0
    return max((pace.side for pace in good), default=best.side)


def _doubling(paces: Sequence[Pace], best: Pace) -> float:
    """Return the cost of twice the threads on a tile, from tiles of the best size."""
    same = {p.threads: p for p in paces if (p.library, p.side) == (best.library, best.side)}
    few, many = min(same), max(same)
    if few == many:
        return 0.0
    ratio = same[many].seconds_per_pixel / same[few].seconds_per_pixel
    doublings = (many // few).bit_length() - 1
    return round(float(ratio ** (1 / doublings)), 2)
