"""Execution: where and how a job's network ran."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import Progress
from upscaled.engines.pool import Place


@dataclass(frozen=True)
class Execution:
    """Where and how a job's network ran, as far as known."""

    place: Place | None = None
    """Where the last band was made."""
    program_sha256: str | None = None
    """Of the native program that made it, if one did."""
    libraries: tuple[str, ...] = ()
    """Names and versions of the libraries that ran the network."""
    method: CpuMethod | None = None
    """The measured method in which it runs; None: by the engine's rule."""
    tiles_at_once: int = 0
    """Tiles that it worked on side by side; 0: unknown."""
    threads_per_tile: int = 0
    """0: unknown."""
    helpers: tuple[str, ...] = ()
    """Ids of other devices that made bands; one name for those of other machines."""

    def with_help(self, device: str) -> Execution:
        """Return this with a device that has made a band."""
        if device in self.helpers:
            return self
        return replace(self, helpers=(*self.helpers, device))

    def after(self, progress: Progress) -> Execution:
        """Return this with what an engine reports."""
        libraries = self.libraries
        if progress.library is not None and progress.library not in libraries:
            libraries = (*libraries, progress.library)
        return replace(
            self,
            libraries=libraries,
            tiles_at_once=progress.tiles_at_once or self.tiles_at_once,
            threads_per_tile=progress.threads_per_tile or self.threads_per_tile,
        )
