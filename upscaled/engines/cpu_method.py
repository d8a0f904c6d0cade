"""A method of running a network on the CPU, as `upscaled.engines.builtin.choice` chooses it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CpuMethod:
    """How a network runs on the CPU. A format on disk: fields may be added but not changed."""

    library: str
    """A `CpuLibrary`."""
    tile: int = 0
    """The largest tile side; 0: as large as usual."""
    doubling: float = 0.0
    """Processor time of a tile with twice as many threads, as a multiple; 0: not measured."""
    measured: bool = True
    """False: it is assumed to be quick."""
    fast: bool = False
    """The caller accepts a picture that differs from 32 bits by more than usual."""
