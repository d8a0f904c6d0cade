"""The protocol that every engine implements, and its types.

An engine knows nothing of jobs: it turns rows of one raw picture into rows of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.traits import EngineTraits
from upscaled.pictures import RawImage, Size

_SMALL_PIXELS = 128 * 128
_SMALL_SIDE = 256
PADDING = 10
"""Pixels of context around each tile; the native programs' constant (docs/engines.md, padding)."""

SMALLEST_TILE = 32
"""Pixels a side. The native programs refuse smaller tiles; below it padding is most of the work."""
TTA_RUNS = 8
"""Runs of the network for each tile with ``tta``: the flips and rotations."""


@dataclass(frozen=True)
class ModelFiles:
    """One network on disk: a ``.param``/``.bin`` pair with its measured properties."""

    param: Path
    bin: Path
    native_scale: int
    input_blob: str
    output_blob: str
    bytes_per_pixel: int
    """Peak memory of inference in bytes for each pixel of a padded tile, measured on the CPU."""
    repeats_edges: bool = False
    """Beyond the picture its outermost pixels are repeated; else the picture is reflected."""

    @property
    def stem(self) -> str:
        """The pair's common file name without suffix, as the native programs' ``-n`` wants it."""
        return self.param.stem


class DeviceKind(StrEnum):
    """The kind of a device. ``SOFTWARE`` is a Vulkan driver that runs on the CPU (llvmpipe)."""

    CPU = "cpu"
    DISCRETE = "discrete"
    INTEGRATED = "integrated"
    VIRTUAL = "virtual"
    SOFTWARE = "software"


@dataclass(frozen=True)
class Device:
    """Where inference runs: the CPU (``index`` None) or a Vulkan device by index."""

    index: int | None
    name: str
    kind: DeviceKind

    @property
    def id(self) -> str:
        """``cpu`` or ``vulkan:<index>``."""
        return "cpu" if self.index is None else f"vulkan:{self.index}"

    @property
    def is_gpu(self) -> bool:
        """True for a hardware GPU; false for the CPU and for software drivers."""
        return self.kind in {DeviceKind.DISCRETE, DeviceKind.INTEGRATED, DeviceKind.VIRTUAL}


CPU = Device(None, "CPU", DeviceKind.CPU)


def is_small(picture: Size) -> bool:
    """Return whether a picture can share an engine with other small pictures.

    A small picture is a single tile if memory allows, computed by one thread while others run.
    Cutting it into several tiles would cost a fifth more for padding, and threads that share a tile
    wait for each other at every layer.
    """
    longest = max(picture.width, picture.height)
    return picture.pixels <= _SMALL_PIXELS and longest <= _SMALL_SIDE


@dataclass(frozen=True)
class UpscaleTask:
    """Enlarge rows ``top`` (included) to ``bottom`` (excluded) of ``source`` into ``target``.

    ``target`` exists with its full length, ``source.size`` times ``model.native_scale``; exactly
    the rows ``top * native_scale`` to ``bottom * native_scale`` of it are written. Rows of the
    source outside the range serve as context, so a picture done in bands equals one done whole.
    """

    source: RawImage
    target: RawImage
    model: ModelFiles
    top: int
    bottom: int
    tile_size: int = 0
    """Pixels per tile side, 0 for the engine's choice."""
    tta: bool = False
    """Average the eight flips and rotations."""
    workdir: Path | None = None
    """An existing folder of this job for the engine's temporary files."""
    shares: int = 1
    """How many tasks may run on the engine at once, this one included."""
    method: CpuMethod | None = None
    """How to run the network on the CPU; None: by the engine's rule."""


@dataclass(frozen=True)
class UpscaleOutcome:
    """How an engine has done a task."""

    tile_size: int
    """The tile size that was used, in source pixels; 0 if unknown."""
    seconds: float
    """The engine time it took: while n tasks run, each second counts as 1/n."""


@dataclass(frozen=True)
class Progress:
    """How far a task is. ``share`` and ``rows`` never decrease, unless the task had to restart."""

    share: float
    """Part of the task that is done, 0.0 to 1.0; may be an estimate within a tile."""
    rows: int
    """Source rows from ``task.top`` that are completely written to the target: a multiple of the
    tile size until the end. Interrupted work can continue below them."""
    tile_size: int
    """The tile size in use, in source pixels; 0 if unknown."""
    library: str | None = None
    """Name and version of the library that runs the network, if the engine tells."""
    tiles_at_once: int = 0
    """Tiles that are computed side by side; 0 if unknown."""
    threads_per_tile: int = 0
    """0 if unknown."""


ProgressCallback = Callable[[Progress], None]


class Engine(Protocol):
    """One way of running inference on one device.

    It gets one task at a time, or as many as the tasks' ``shares`` allow.
    """

    traits: EngineTraits
    device: Device

    @property
    def program(self) -> Path | None:
        """The native program that does the work; None if there is none."""
        ...

    @property
    def unusable(self) -> str | None:
        """Why no task can be done now, as a sentence; None if one can.

        That is so while a process that was killed holds the device and does not end.
        """
        ...

    def when_usable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once `unusable` becomes None."""
        ...

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many source rows of ``width`` pixels one task may have; 0: not even one."""
        ...

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``.

        When this is cancelled, the processes it started are killed before the cancellation goes
        on. Only one that survives SIGKILL outlives it; then the engine is `unusable`. A failure
        leaves no file in ``task.workdir``.

        Raises:
            EngineError: it failed; the message is one sentence with the engine's last words.
            WorkerDeathError: a process of the engine died; the same task may succeed.
            WorkerFailedError: a process of the engine hangs or could not be started.
        """
        ...

    async def reset(self) -> None:
        """Make the next task start a new process."""
        ...

    async def close(self) -> None:
        """End all processes of this engine; wait for them, but not for ever."""
        ...
