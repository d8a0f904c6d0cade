"""The processor time that other programs take while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path(os.environ.get("PROC_STAT", "/proc/stat"))
"""The kernel's counters. The environment variable names them where a container has other ones."""
_COUNTED = (0, 1, 2, 5, 6, 7)
"""Columns of proc(5): user, nice, system, interrupts, soft interrupts, stolen by the host. Time of
guests is part of the first two."""
_SHARE = 0.06
"""Part of the processors in use that others may take."""
_TICKS = 2
"""The kernel counts in ticks: so many for each processor may belong to the time before or after."""


class OtherPrograms:
    """Watches what other programs, and other guests of the same host, take of the processors.

    If the kernel has no counters, they count as quiet.

    Args:
        cores: how many this process uses. Others may have those that it leaves.
        stat: the kernel's counters.
    """

    def __init__(self, cores: int, stat: Path = STAT) -> None:
        cpus = os.sched_getaffinity(0)
        self._names = {f"cpu{number}" for number in cpus}
        self._spare = max(0, len(cpus) - cores)
        self._allowed = _SHARE * min(cores, len(cpus))
        self._tick = 1 / os.sysconf("SC_CLK_TCK")
        self._stat = stat
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._began = time.monotonic()
        self._others = self._now()

    def are_quiet(self) -> bool:
        """Return whether others left this process its processors since `begin`."""
        passed = time.monotonic() - self._began
        taken = self._now() - self._others - _TICKS * self._tick * len(self._names)
        return taken <= (self._spare + self._allowed) * passed

    def _now(self) -> float:
        """Return the seconds that others have taken so far, of the processors allowed here."""
        own = time.process_time()
        try:
            lines = self._stat.read_text("ascii", "replace").splitlines()
        except OSError:
            return 0.0
        ticks = 0
        seen = False
        for line in lines:
            name, *columns = line.split()
            if name in self._names:
                seen = True
                ticks += sum(int(columns[at]) for at in _COUNTED if at < len(columns))
        return ticks * self._tick - own if seen else 0.0
