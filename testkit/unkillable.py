"""Children that survive SIGKILL, as those do that wait in the kernel for a driver (state D)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from upscaled.workers import processes


def survive_sigkill(
    monkeypatch: pytest.MonkeyPatch, *, only: int | None = None, seconds: float = 0.3
) -> Callable[[int], None]:
    """Have children stopped instead of killed from now on, and shorten the wait for their end.

    ``only`` is the process id of the child that this is about, where others are killed meanwhile:
    the test must end each child that was stopped.

    No test can bring a process into state D at will. A stopped process is as good for whoever waits
    for its end: it does nothing, takes no notice of closed pipes and can't be reaped.

    Returns:
        A function that ends a child after all, by its process id.
    """
    kill = os.killpg

    def killpg(group: int, number: int) -> None:
        kill(group, signal.SIGSTOP if only in {None, group} else number)

    monkeypatch.setattr(os, "killpg", killpg)
    monkeypatch.setattr(processes, "KILL_SECONDS", seconds)
    return lambda pid: kill(pid, signal.SIGKILL)
