"""Free memory: the machine's, the control group's, and the limits that follow from it."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

_C_LIBRARY = ctypes.CDLL(None)
_MIB = 1 << 20
_PR_SET_THP_DISABLE = 41
"""prctl(2)."""

_SHARE = 0.5
"""Part of the free memory that this service uses; the rest is for other programs."""
_BESIDE_MB = 370
"""MiB for server and imaging processes: 310 were measured with 25 megapixels (`bench.huge`)."""
_LEAST_PART = 0.4
"""Least part of a small limit that the engines get."""


def available() -> int:
    """Return half of the free bytes: the machine's or a control group's, whichever is less."""
    free = min(_field(Path("/proc/meminfo"), "MemAvailable"), *group_amounts(), 1 << 62)
    return max(0, int(free * _SHARE))


def engine_part_mb(service_mb: int) -> int:
    """Return how many MiB of the service's memory all builtin engines together may hold.

    Args:
        service_mb: the setting ``upscaler.memory_limit_mb``; 0: half of what is free now.
    """
    whole = service_mb or available() // _MIB
    return max(whole - _BESIDE_MB, int(whole * _LEAST_PART))


def service_mb(engines_mb: int) -> int:
    """Return the least ``upscaler.memory_limit_mb`` that leaves the engines ``engines_mb``."""
    return min(engines_mb + _BESIDE_MB, math.ceil(engines_mb / _LEAST_PART))


def ceiling(limit_mb: int | None) -> int:
    """Return the bytes that this process may hold: the limit, or half of the machine's memory."""
    if limit_mb is not None:
        return limit_mb * _MIB
    return int(_field(Path("/proc/meminfo"), "MemTotal") * _SHARE)


def resident() -> int:
    """Return the bytes of physical memory this process holds."""
    return _field(Path("/proc/self/status"), "VmRSS")


def reset_peak() -> None:
    """Reset `peak` to the current `resident`."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # 5: proc(5), resets VmHWM


def peak() -> int:
    """Return the peak of `resident` since the start or the last `reset_peak`."""
    return _field(Path("/proc/self/status"), "VmHWM")


def use_huge_pages(wanted: bool) -> None:
    """Allow or forbid huge pages for this process.

    Works where the system's setting is ``madvise`` or ``always``. `messages.worker_env` makes the C
    library ask for them.
    """
    prctl = getattr(_C_LIBRARY, "prctl", None)  # Linux has it
    if prctl is not None:
        prctl(_PR_SET_THP_DISABLE, int(not wanted), 0, 0, 0)


def trim() -> None:
    """Return freed memory to the system, which the C library otherwise keeps."""
    trim = getattr(_C_LIBRARY, "malloc_trim", None)  # the GNU C library has it
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
    """Return the bytes that each control group (version 1 or 2) of this process leaves free."""
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
        # In a container the path may be the host's; then the root is this process's group.
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
    # Cached file pages count as used, but the kernel frees them on demand.
    cached = sum(
        int(amount)
        for name, _, amount in (line.partition(" ") for line in statistics)
        if name in {"inactive_file", "active_file"}
    )
    return int(most) - max(0, used - cached)
