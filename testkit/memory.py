"""Memory and processor time of a process and all its descendants."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Memory of a process and its descendants, in bytes.

    Attributes:
        shared_once: sum of proportional set sizes (PSS): a page that several processes share
            counts once.
        summed: sum of resident set sizes (RSS): a shared page counts for each process.
        root: resident set size of the first process alone.
        processes: number of processes.
    """

    shared_once: int = 0
    summed: int = 0
    root: int = 0
    processes: int = 0

    def largest(self, other: Memory) -> Memory:
        """Return the larger value of each attribute."""
        return Memory(
            max(self.shared_once, other.shared_once),
            max(self.summed, other.summed),
            max(self.root, other.root),
            max(self.processes, other.processes),
        )


def family(pid: int) -> list[int]:
    """Return the ids of ``pid`` and all its current descendants."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def memory(pid: int) -> Memory:
    """Return the current memory of ``pid`` and its descendants."""
    shared_once = summed = root = processes = 0
    for member in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            text = Path(f"/proc/{member}/smaps_rollup").read_text("ascii")
            sizes = dict(line.split(":", 1) for line in text.splitlines()[1:])
            resident = int(sizes["Rss"].split()[0]) * 1024
            shared_once += int(sizes["Pss"].split()[0]) * 1024
            summed += resident
            processes += 1
            if member == pid:
                root = resident
    return Memory(shared_once, summed, root, processes)


class MemoryWatch:
    """Samples the memory of ``pid`` and its descendants every ``interval`` seconds."""

    def __init__(self, pid: int, interval: float = 0.2) -> None:
        self.peak = Memory()
        self._pid = pid
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch")

    def _watch(self) -> None:
        while not self._end.wait(self._interval):
            self.peak = self.peak.largest(memory(self._pid))

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()


def forget_peak(pid: int) -> None:
    """Reset the kernel's record of the largest resident size of ``pid``."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


def peak(pid: int) -> int:
    """Return the largest resident size of ``pid`` alone since `forget_peak`, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def _role(process: psutil.Process, root: int) -> str:
    """Return what a process is for: the room of the module it runs, or its program's name."""
    if process.pid == root:
        return "server"
    words = process.cmdline()
    if "-m" not in words:
        return Path(words[0]).name
    return words[words.index("-m") + 1].removeprefix("upscaled.").partition(".")[0]


def processor_seconds(pid: int) -> dict[str, float]:
    """Return the seconds of processor time so far, by room.

    The time of children that ended counts as "… (ended children)" of their parent.
    """
    seconds: dict[str, float] = defaultdict(float)
    for member in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            process = psutil.Process(member)
            role, times = _role(process, pid), process.cpu_times()
            seconds[role] += times.user + times.system
            seconds[f"{role} (ended children)"] += times.children_user + times.children_system
    return {role: value for role, value in seconds.items() if value}
