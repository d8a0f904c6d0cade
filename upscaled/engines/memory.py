"""How much memory there is to take: the machine's, the control group's, a limit of our own."""

from __future__ import annotations

import ctypes
from pathlib import Path

from upscaled.engines.protocol import PADDING, ModelFiles
from upscaled.engines.tiling import SMALLEST_TILE

_MIB = 1 << 20


_SHARE = 0.5
"""Part of what is free that we take: others work beside us."""
_BASE = 64 * _MIB
"""What a worker holds before its first network, with some air: measured 45."""
_WEIGHTS = 9.0
"""Bytes that a loaded network takes for each of its ``.bin``: 8.6 with x4plus, whose weights are
kept as Winograd transforms too."""
_LEAN_WEIGHTS = 2.5
"""The same without those: 2.2."""
_LEAN_APPETITE = 0.5
"""Of the memory a pixel, without the layers' workspaces: 0.38 with x4plus."""


def available() -> int:
    """Return half of what the kernel calls available or the control groups leave, in bytes."""
    free = min(_field(Path("/proc/meminfo"), "MemAvailable"), *group_amounts(), 1 << 62)
    return max(0, int(free * _SHARE))


def ceiling(limit_mb: int | None) -> int:
    """Return the bytes that this process may hold: the limit, else half of the machine's."""
    if limit_mb is not None:
        return limit_mb * _MIB
    return int(_field(Path("/proc/meminfo"), "MemTotal") * _SHARE)


class Room:
    """How a worker with a limit is furnished for a network: with all that is quick, or lean.

    Nothing in it depends on what is free at the moment, so a task done again is done alike.

    Args:
        model: the network.
        limit: bytes that the process may hold.

    Raises:
        TooLittleError: the smallest tile does not fit.
        OSError: the weights' file is not there.
    """

    def __init__(self, model: ModelFiles, limit: int) -> None:
        stored = model.bin.stat().st_size
        self.lean = False
        self.weights = int(stored * _WEIGHTS)
        self.bytes_per_pixel = model.bytes_per_pixel
        smallest = (SMALLEST_TILE + 2 * PADDING) ** 2
        if _BASE + self.weights + smallest * self.bytes_per_pixel > limit:
            self.lean = True
            self.weights = int(stored * _LEAN_WEIGHTS)
            self.bytes_per_pixel = int(model.bytes_per_pixel * _LEAN_APPETITE)
        self.for_tiles = limit - _BASE - self.weights
        missing = smallest * self.bytes_per_pixel - self.for_tiles
        if missing > 0:
            raise TooLittleError(
                f"{model.stem} needs {(limit + missing) // _MIB + 1} MiB for its smallest tile; "
                f"the engine may hold {limit // _MIB}; raise upscaler.memory_limit_mb by "
                f"{missing // _MIB + 1} or more."
            )


class TooLittleError(Exception):
    """A network does not fit into the limit; the message is a sentence."""


def resident() -> int:
    """Return the bytes of physical memory this process holds."""
    return _field(Path("/proc/self/status"), "VmRSS")


def reset_peak() -> None:
    """Have `peak` start anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # 5: proc(5), resets VmHWM


def peak() -> int:
    """Return the most bytes of physical memory held since the start or `reset_peak`."""
    return _field(Path("/proc/self/status"), "VmHWM")


def give_back() -> None:
    """Return freed memory to the system; the C library would keep all that a tile took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library has it
    if trim is not None:
        trim(0)


def _field(path: Path, name: str) -> int:
    """Return a ``Name:  123 kB`` line's amount in bytes."""
    for line in path.read_text("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(f"{path} has no line {name}.")


def group_amounts(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Return what each control group around this process leaves, versions 1 and 2."""
    amounts: list[int] = []
    try:
        lines = proc.read_text("utf-8").splitlines()
    except OSError:
        return amounts  # a kernel without control groups
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = (
                root / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        folder = base / group.lstrip("/")
        # In a container the group's path may be the host's: the root is then our own group.
        for place in (folder, *folder.parents):
            amount = _left(place, limit, usage)
            if amount is not None:
                amounts.append(amount)
            if place == base:
                break
    return amounts


def _left(group: Path, limit: str, usage: str) -> int | None:
    try:
        most = (group / limit).read_text("ascii").strip()
        used = int((group / usage).read_text("ascii"))
        statistics = (group / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return None  # no such group, or no limit can be set on it
    if most == "max":
        return None
    # Cached file pages count as used but are given back when memory is wanted.
    cached = sum(
        int(amount)
        for name, _, amount in (line.partition(" ") for line in statistics)
        if name in {"inactive_file", "active_file"}
    )
    return int(most) - max(0, used - cached)
