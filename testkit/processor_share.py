"""A share of the processor for a process and its children, by a control group. It takes root."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000
"""Microseconds."""
_WEIGHT = 10
"""Times the usual weight, so that a busy machine does not take the share away."""


def _parent() -> Path | None:
    """Return the folder in which groups are made; None if this machine permits none."""
    if os.geteuid() != 0:
        return None
    first = _ROOT / "cpu"
    if (first / "cpu.cfs_quota_us").exists() or (first / "cpu.shares").exists():
        return first
    controls = _ROOT / "cgroup.subtree_control"
    try:
        return _ROOT if "cpu" in controls.read_text("ascii").split() else None
    except OSError:
        return None


def possible() -> bool:
    """Tell whether this machine permits it."""
    parent = _parent()
    return parent is not None and os.access(parent, os.W_OK)


@contextlib.contextmanager
def processor_share(cores: float) -> Iterator[tuple[str, ...]]:
    """Make a group that may use so many cores; yield what is put before a command in it."""
    parent = _parent()
    assert parent is not None, "ask `possible` first"
    group = parent / f"upscaled-{secrets.token_hex(4)}"
    group.mkdir()
    quota = round(cores * _PERIOD)
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}", "ascii")
            (group / "cpu.weight").write_text(str(100 * _WEIGHT), "ascii")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD), "ascii")
            (group / "cpu.cfs_quota_us").write_text(str(quota), "ascii")
            (group / "cpu.shares").write_text(str(1024 * _WEIGHT), "ascii")
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        yield "sh", "-c", enter, "sh"
    finally:
        group.rmdir()
