"""The engine ``binary``: realesrgan-ncnn-vulkan or upscayl-bin, one process for each task.

docs/native-binary.md says how the program is called, and why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from upscaled.engines.binary import exchange
from upscaled.engines.binary.line_progress import LineProgress
from upscaled.engines.binary.output import ProgramOutput
from upscaled.engines.binary.program import (
    Flavour,
    ProgramInfo,
    command_line,
    find_program,
    probe,
)
from upscaled.engines.engine import (
    PADDING,
    TTA_RUNS,
    Device,
    DeviceKind,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.engines.guessed_time import GPU_WEIGHTS_PER_SECOND, guess_seconds
from upscaled.engines.traits import BINARY
from upscaled.errors import (
    SHORTAGE,
    EngineError,
    ShortageError,
    WorkerDeathError,
    WorkerFailedError,
)
from upscaled.workers import processes
from upscaled.workers.environment import plain_env
from upscaled.workers.processes import Child, StuckError

__all__ = ["BinaryEngine", "Flavour", "ProgramInfo", "find_program", "max_rows", "probe"]

log = logging.getLogger(__name__)

DEFAULT_DEVICE = Device(0, "the default Vulkan device", DeviceKind.VIRTUAL)
"""Stands for the program's own choice when no device is configured."""

_INT_LIMIT = 1 << 31
"""The programs count the bytes of the result in an int."""
_MAX_TASK_BYTES = 256 << 20
"""Bytes of the result that one task may have: an eighth of `_INT_LIMIT`. The program holds the
result several times, as pixels and as a PNG whose buffer doubles. So a task stays below about
1 GiB, and little is lost when it fails."""
_DRAIN_SECONDS = 1.0
_READ_BYTES = 1 << 16


def max_rows(width: int, scale: int) -> int:
    """Return how many source rows one task may have.

    Args:
        width: of the source, in pixels.
        scale: the network's own.

    Returns:
        Rows, without the context rows; 0 when not even one row fits.
    """
    return max(0, _MAX_TASK_BYTES // _output_bytes(width, 1, scale) - 2 * PADDING)


def _output_bytes(width: int, rows: int, scale: int) -> int:
    """Return the bytes of the result in the PNG encoder: each row has a filter byte in front."""
    return (width * scale * 3 + 1) * rows * scale


class BinaryEngine:
    """The native program on one Vulkan device (see `upscaled.engines.engine.Engine`).

    Args:
        program: path of the program.
        device: the Vulkan device to select with ``-g``; None: the program's own choice.
        flavour: which program it is; None: it is probed before the first task.
        env: variables in addition to `plain_env`.
        timeout_seconds: a task that takes longer fails; None: no limit.
        stall_seconds: a task without a new percentage for this long fails; None: no limit. The
            program prints nothing while it encodes.
    """

    traits = BINARY

    def __init__(
        self,
        program: Path,
        device: Device | None,
        *,
        flavour: Flavour | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        stall_seconds: float | None = None,
    ) -> None:
        if device is not None and device.index is None:
            raise ValueError("the native program has no CPU mode")
        self.device = device or DEFAULT_DEVICE
        self._gpu = device.index if device else None
        self.program = program.absolute()
        self._info = ProgramInfo(self.program, flavour, "") if flavour else None
        self._env = plain_env(**(env or {}))
        self._timeout = timeout_seconds
        self._stall = stall_seconds
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._stuck: Child | None = None
        self._when_usable: list[Callable[[], None]] = []
        self._seconds_per_pixel: tuple[Path, float] | None = None
        self._closed = False

    @property
    def unusable(self) -> str | None:
        """See `Engine.unusable`."""
        if self._stuck is None or self._stuck.is_gone:
            return None
        return _sentence("The native program can't be started", str(StuckError(self._stuck.pid)))

    def when_usable(self, callback: Callable[[], None]) -> None:
        """See `Engine.when_usable`."""
        if self._stuck is not None and callback not in self._when_usable:
            self._when_usable.append(callback)

    def _freed(self) -> None:
        self._stuck = None
        callbacks, self._when_usable = self._when_usable, []
        for callback in callbacks:
            callback()

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``; see `Engine.upscale`.

        Raises:
            EngineError: the program failed, or the engine can't handle the task; the message has
                the program's last words.
            WorkerDeathError: the program was killed or crashed.
            WorkerFailedError: the program could not be started, or does not end.
        """
        _refuse_impossible(task)
        async with self._turn:
            if (reason := self.unusable) is not None:
                raise WorkerFailedError(reason, tile_matters=False)
            started = time.monotonic()
            if self._info is None:
                self._info = await probe(self.program, env=self._env)
            try:
                await self._with_folder(task, self._info, on_progress)
            except StuckError as error:
                raise WorkerFailedError(
                    _sentence("The native program failed", str(error)), tile_matters=False
                ) from None
            except OSError as error:
                if error.errno in SHORTAGE:
                    raise ShortageError(
                        f"The native program could not be started: {error.strerror}."
                    ) from error
                raise EngineError(
                    f"Files could not be exchanged with the native program: {error.strerror}."
                ) from error
            on_progress(Progress(1.0, task.bottom - task.top, task.tile_size))
            seconds = time.monotonic() - started
            runs = _pixels(task) * (TTA_RUNS if task.tta else 1)
            self._seconds_per_pixel = (task.model.param, seconds / runs)
            return UpscaleOutcome(task.tile_size, seconds)

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many rows one task may have; see the function of this name."""
        return max_rows(width, scale)

    async def reset(self) -> None:
        """Do nothing: each task has a process of its own."""

    async def close(self) -> None:
        """End the running task, if there is one (it fails), and accept no further ones."""
        self._closed = True
        if self._child is not None:
            await self._child.kill()
        async with self._turn:
            pass

    async def _with_folder(
        self, task: UpscaleTask, info: ProgramInfo, on_progress: ProgressCallback
    ) -> None:
        parent = task.workdir or task.target.path.parent
        folder = parent / f"native-{secrets.token_hex(8)}"
        try:
            await _in_thread(lambda _: folder.mkdir(mode=0o700))
            await _in_thread(lambda stop: exchange.write_inputs(task, folder, stop))
            await self._run(task, info, folder, on_progress)
            await _in_thread(lambda stop: exchange.read_output(task, folder, stop))
        finally:
            await _in_thread(lambda _: _remove(folder))

    async def _run(
        self, task: UpscaleTask, info: ProgramInfo, folder: Path, on_progress: ProgressCallback
    ) -> None:
        """Run the program until it ends, and decide by its output whether it succeeded.

        Raises:
            EngineError: it reported a failure, left no result, took too long or was killed.
            StuckError: it does not end although it was killed.
        """
        program = command_line(
            info,
            source=exchange.SOURCE,
            target=exchange.TARGET,
            model=exchange.MODEL,
            native_scale=task.model.native_scale,
            tile_size=task.tile_size,
            gpu=self._gpu,
            tta=task.tta,
        )
        output = ProgramOutput()
        progress = await self._tile_progress(task, on_progress)
        child: Child | None = None
        try:
            async with processes.running(program, env=self._env, cwd=folder) as child:
                self._child = child
                try:
                    if self._closed:
                        raise EngineError("The engine was closed.")
                    async with asyncio.timeout(self._timeout):
                        status = await self._listen(child, output, progress)
                except TimeoutError:
                    raise EngineError(
                        f"The native program did not finish within {self._timeout:g} seconds."
                    ) from None
                finally:
                    progress.stop()
                    self._child = None
        finally:
            if child is not None and child.is_stuck:
                self._stuck = child
                child.when_gone(self._freed)
        self._note_device(output)
        if output.failure:
            raise EngineError(_sentence("The native program failed", output.failure))
        if self._closed:
            raise EngineError("The engine was closed.")
        if status == 0:
            return
        if not await asyncio.to_thread((folder / exchange.TARGET).exists):
            if status < 0:
                how = f"The native program crashed with signal {-status}"
                raise WorkerDeathError(_sentence(how, output.last_words))
            how = f"The native program ended with status {status}"
            raise EngineError(_sentence(how, output.last_words))
        # It is known to crash during cleanup after a good result. Reading the result shows whether
        # this one is good.
        log.warning(
            "The native program ended with status %d after writing a result: %s",
            status,
            output.last_words,
        )

    async def _listen(self, child: Child, output: ProgramOutput, progress: LineProgress) -> int:
        """Read standard error until the program has ended; return its exit status."""
        loop = asyncio.get_running_loop()

        async def read(stalled: asyncio.Timeout) -> None:
            while data := await child.stderr.read(_READ_BYTES):
                if output.feed(data):
                    if self._stall is not None:
                        stalled.reschedule(loop.time() + self._stall)
                    progress.reached(output.progress)
            output.finish()

        try:
            async with asyncio.timeout(self._stall) as stalled:
                reading = asyncio.create_task(read(stalled), name="native-stderr")
                ending = asyncio.create_task(child.wait(), name="native-exit")
                try:
                    await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done():
                        # The group is dead; only a process that left it holds the pipe open.
                        await asyncio.wait({reading}, timeout=_DRAIN_SECONDS)
                    if reading.done():
                        reading.result()
                    return await ending
                finally:
                    for task in (reading, ending):
                        task.cancel()
                    await asyncio.wait({reading, ending})
        except TimeoutError:
            raise EngineError(
                f"The native program made no progress for {self._stall:g} seconds."
            ) from None

    async def _tile_progress(
        self, task: UpscaleTask, on_progress: ProgressCallback
    ) -> LineProgress:
        """Return the progress of a task, with what its tiles are expected to take."""
        pixels = _pixels(task)
        known = self._seconds_per_pixel
        if known is not None and known[0] == task.model.param:
            seconds = known[1] * pixels
        else:
            stat = await asyncio.to_thread(task.model.bin.stat)
            seconds = guess_seconds(stat.st_size, pixels, GPU_WEIGHTS_PER_SECOND)
        seconds *= TTA_RUNS if task.tta else 1
        side = task.tile_size or BINARY.default_tile
        tiles = -(-task.source.size.width // side) * -(-(task.bottom - task.top) // side)

        def report(share: float) -> None:
            on_progress(Progress(share, 0, task.tile_size))

        return LineProgress(report, tiles, seconds)

    def _note_device(self, output: ProgramOutput) -> None:
        if self._gpu is None:
            return
        found = output.devices.get(self._gpu)
        if found is not None and found != self.device.name:
            log.warning(
                "Vulkan device %d is %s to the native program, not %s.",
                self._gpu,
                found,
                self.device.name,
            )


def _pixels(task: UpscaleTask) -> int:
    return task.source.size.width * (task.bottom - task.top)


def _refuse_impossible(task: UpscaleTask) -> None:
    """Raise EngineError for a task that the program would answer with garbage or a crash."""
    if task.source.channels != 3:
        raise EngineError("The native program accepts RGB only.", retryable=False)
    first, last = exchange.context_rows(task)
    size, scale = task.source.size, task.model.native_scale
    if _output_bytes(size.width, last - first, scale) >= _INT_LIMIT:
        raise EngineError(
            f"{size.width}×{last - first} pixels at scale {scale} are more than the native program "
            f"can process; it can do {max_rows(size.width, scale)} rows at once.",
            retryable=False,
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sentence(what: str, words: str) -> str:
    return f"{what}: {words.rstrip('.!')}." if words else f"{what} without a word."


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Run ``work`` in a thread; when cancelled, set its stop event and wait until it ends."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            cancelled = True
            stop.set()
    if cancelled:
        running.exception()  # marks StoppedError as retrieved
        raise asyncio.CancelledError
    running.result()
