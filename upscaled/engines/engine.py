"""What every engine offers, and the nouns it is offered in.

An engine knows nothing of jobs: it turns rows of one raw picture into rows of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from upscaled.pictures import RawImage, Size

_SMALL_PIXELS = 128 * 128
_SMALL_SIDE = 256
PADDING = 10
"""Pixels of context around every tile; the native programs' constant (docs/engines.md, padding)."""


@dataclass(frozen=True)
class ModelFiles:
    """One network on disk: one ``.param``/``.bin`` pair with its real, measured properties."""

    param: Path
    bin: Path
    native_scale: int
    input_blob: str
    output_blob: str
    bytes_per_pixel: int
    """Peak memory of inference in bytes for each pixel of a padded tile, measured on the CPU."""

    @property
    def stem(self) -> str:
        """The pair's common file name without suffix, as the native programs' ``-n`` wants it."""
        return self.param.stem


class DeviceKind(StrEnum):
    """What a device is. ``SOFTWARE`` is a CPU that poses as a Vulkan GPU (llvmpipe)."""

    CPU = "cpu"
    DISCRETE = "discrete"
    INTEGRATED = "integrated"
    VIRTUAL = "virtual"
    SOFTWARE = "software"


@dataclass(frozen=True)
class Device:
    """What inference is done on: the CPU (``index`` None) or a Vulkan device by index."""

    index: int | None
    name: str
    kind: DeviceKind

    @property
    def id(self) -> str:
        """``cpu`` or ``vulkan:<index>``."""
        return "cpu" if self.index is None else f"vulkan:{self.index}"

    @property
    def is_gpu(self) -> bool:
        """True for hardware; false for the CPU and for software that poses as a GPU."""
        return self.kind in {DeviceKind.DISCRETE, DeviceKind.INTEGRATED, DeviceKind.VIRTUAL}


CPU = Device(None, "CPU", DeviceKind.CPU)


def is_small(picture: Size) -> bool:
    """Tell whether a picture can share an engine with others like it.

    Such a one is one tile where there is memory for it, done by one thread while there are others.
    To cut it for several would cost a fifth more for padding, and threads that share a
    tile wait for one another at every layer.
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
    """An existing folder of this job for an engine's own files."""
    shares: int = 1
    """How many tasks may be under way on the engine at once, this one included."""


@dataclass(frozen=True)
class UpscaleOutcome:
    """How an engine did a task."""

    tile_size: int
    """The tile size that was used, in source pixels; 0 where the engine would not say."""
    seconds: float
    """What it took of the engine's time: while n tasks are under way, an n-th of each second."""


@dataclass(frozen=True)
class Progress:
    """How far a task is. ``share`` and ``rows`` never go back, unless it had to begin anew."""

    share: float
    """Of the task, 0.0 to 1.0."""
    rows: int
    """Source rows, from ``task.top`` on, that are wholly written into the target: a multiple of
    the tile size until the end. Work that is broken off can go on below them."""
    tile_size: int
    """The tile size in use, in source pixels; 0 where the engine does not say."""
    library: str | None = None
    """Name and version of what runs the network, where the engine is our own."""


ProgressCallback = Callable[[Progress], None]


class Engine(Protocol):
    """One way of doing inference on one device.

    It is given one task at a time, or several whose ``shares`` allow for the others.
    """

    name: str
    """``binary`` or ``builtin``."""
    device: Device

    @property
    def program(self) -> Path | None:
        """The native program; None where the engine is our own."""
        ...

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many source rows of ``width`` pixels one task may have at most; 0: none."""
        ...

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``.

        When the awaiting task is cancelled, everything it started is dead before the
        cancellation goes on. A failure leaves no file in ``task.workdir`` behind.

        Raises:
            EngineError: it failed; the message is the engine's own last word as one sentence.
        """
        ...

    async def reset(self) -> None:
        """See to it that the next task is done by a fresh process."""
        ...

    async def close(self) -> None:
        """End every process of this engine and wait until they are gone."""
        ...
