"""Times that were measured while other programs took the processor do not count."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testkit.networks import shipped
from upscaled.engines.builtin import measuring
from upscaled.engines.builtin.calibration import BusyError, Calibration
from upscaled.engines.builtin.choice import choose
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.network import Floats, Network, Pixels
from upscaled.engines.builtin.other_programs import OtherPrograms

NOWHERE = Path("/nonexistent/stat")
_BURN = "while True: pass"


@contextmanager
def burners(number: int) -> Iterator[None]:
    """Processes that take all they get of the processors."""
    running = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The counters of a machine with two processors, on which nothing has run yet."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    return write(tmp_path / "stat", 0)


def write(path: Path, user: int, stolen: int = 0, idle: int = 0, guest: int = 0) -> Path:
    zero = f"cpu0 {user} 0 0 {idle} 0 0 0 {stolen} {guest} 0"
    one = "cpu1 0 0 0 0 0 0 0 0 0 0"
    path.write_text(
        f"cpu  9 9 9 9 9 9 9 9 9 9\n{zero}\n{one}\ncpu2 999 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    return path


@pytest.mark.parametrize(
    ("counted", "quiet"),
    [
        ({"user": 4}, True),  # ticks of the time before
        ({"user": 40}, False),
        ({"user": 0, "stolen": 40}, False),
        ({"user": 0, "idle": 400, "guest": 40}, True),
    ],
)
def test_what_others_take_is_what_the_kernel_counts_without_this_process(
    stat: Path, monkeypatch: pytest.MonkeyPatch, counted: dict[str, int], quiet: bool
) -> None:
    clock = [0.0, 0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: clock[1])
    others = OtherPrograms(2, stat)
    clock[0] = 1.0
    write(stat, **counted)
    assert others.are_quiet() is quiet
    clock[1] = 0.4  # it was this process
    assert others.are_quiet()
    # Others may have the processor that this process leaves.
    spared = OtherPrograms(1, write(stat, 0))
    clock[0] = 2.0
    write(stat, **counted)
    assert spared.are_quiet()


@pytest.mark.parametrize("content", [None, "", "cpu  1 2 3\n", "no counters"])
def test_where_the_kernel_tells_nothing_the_machine_counts_as_quiet(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "stat"
    if content is not None:
        path.write_text(content)
    others = OtherPrograms(1, path)
    assert others.are_quiet()


async def test_beside_busy_programs_nothing_is_measured_and_later_it_goes_on(
    models_dir: Path, tmp_path: Path
) -> None:
    model, counters = shipped(models_dir, "realesr-animevideov3-x2"), tmp_path / "stat"
    counters.symlink_to("/proc/stat")
    calibration = Calibration(model, (CpuLibrary.NCNN,), 2, None, counters)
    with burners(4):
        with pytest.raises(BusyError):
            await calibration.run()
        assert calibration.table.unmeasured == 2
        assert not calibration.table.paces
        assert not calibration.table.failures
    assert choose(calibration.table) is None
    counters.unlink()  # whatever else this machine does: from now on it counts as quiet
    table = await calibration.run()
    assert table.final
    assert choose(table) is not None


class Paced(Network):
    """A network that takes as long as it is told."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.runs = 0

    def run(self, pixels: Pixels) -> Floats:
        time.sleep(self.seconds[min(self.runs, len(self.seconds) - 1)])
        self.runs += 1
        return pixels[:2, :2].transpose(2, 0, 1).astype("float32")

    def release_memory(self) -> bool:
        return True


class Others(OtherPrograms):
    """Other programs that are busy in some rounds."""

    def __init__(self, busy: list[bool]) -> None:
        super().__init__(1, NOWHERE)
        self._busy = busy

    def are_quiet(self) -> bool:
        return not self._busy.pop(0)


def test_only_quiet_rounds_count_and_the_quickest_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SECONDS", 0.01)
    # A first run that does not count, then rounds of one run each. The busy one is the quickest,
    # as if a burst of clock speed had met it.
    network = Paced([0.02, 0.01, 0.06, 0.04])
    seconds = measuring._seconds(network, 8, 1, Others([True, False, False]))
    assert network.runs == 4
    assert 0.04 <= seconds < 0.06
    busy = [True] * measuring._MOST_ROUNDS
    busy[3] = False
    with pytest.raises(measuring.MachineBusyError):
        measuring._seconds(Paced([0.01]), 8, 1, Others(busy))


async def test_a_measurement_that_is_busy_can_be_cancelled(models_dir: Path) -> None:
    model = shipped(models_dir, "realesr-animevideov3-x2")
    calibration = Calibration(model, (CpuLibrary.NCNN,), 2, None, Path("/proc/stat"))
    with burners(4):
        running = asyncio.create_task(calibration.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(running)
        running.cancel()
        await asyncio.wait({running})
    assert running.cancelled()
    assert calibration.table.unmeasured == 2
