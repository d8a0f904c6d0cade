"""The engine ``binary``: realesrgan-ncnn-vulkan or upscayl-bin, one process per task.

docs/native-binary.md says how the program is called and why so.
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

from upscaled.engines.engine import (
    PADDING,
    Device,
    DeviceKind,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.engines.native import exchange
from upscaled.engines.native.output import NativeOutput
from upscaled.engines.native.program import (
    Flavour,
    ProgramInfo,
    command_line,
    find_program,
    probe,
)
from upscaled.errors import EngineError
from upscaled.workers import processes
from upscaled.workers.processes import Child

__all__ = ["BinaryEngine", "Flavour", "ProgramInfo", "find_program", "max_rows", "probe"]

log = logging.getLogger(__name__)

DEFAULT_DEVICE = Device(0, "the default Vulkan device", DeviceKind.VIRTUAL)
"""Stands for whatever the program takes when no device was chosen."""

_INT_LIMIT = 1 << 31
"""The programs count bytes of the result in an int."""
_COMFORTABLE_BYTES = 256 << 20
"""An eighth of it. The program holds the result of a task several times over, as pixels and as a
PNG whose buffer doubles: so a task stays under about 1 GiB, and little is lost when it fails."""
_DRAIN_SECONDS = 1.0
_READ_BYTES = 1 << 16
_LAST_SHARE = 0.99
"""Progress when the program says 100 %; the rest is reading its file."""


def max_rows(width: int, scale: int) -> int:
    """Return how many rows of a picture ``width`` wide one task may have.

    Args:
        width: of the source, in pixels.
        scale: the network's own.

    Returns:
        Rows, without the context around them; 0 when not even one row fits.
    """
    return max(0, _COMFORTABLE_BYTES // _output_bytes(width, 1, scale) - 2 * PADDING)


def _output_bytes(width: int, rows: int, scale: int) -> int:
    """Bytes of the result as the PNG encoder holds it: a filter byte in front of each row."""
    return (width * scale * 3 + 1) * rows * scale


class BinaryEngine:
    """The native program on one Vulkan device (see `upscaled.engines.engine.Engine`).

    Args:
        program: path of the program.
        device: the Vulkan device to pin with ``-g``; None: the program's own choice.
        flavour: what the program is; None: it is asked, before the first task.
        env: variables on top of `processes.plain_env`.
        timeout_seconds: a task that takes longer fails; None: no limit.
        stall_seconds: a task without a new percentage for so long fails; None: no limit. The
            program is silent while it encodes.
    """

    name = "binary"

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
        self._env = processes.plain_env(**(env or {}))
        self._timeout = timeout_seconds
        self._stall = stall_seconds
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._closed = False

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``; see the protocol.

        Raises:
            EngineError: the program failed, or the task is nothing for it; the message has the
                program's last words.
        """
        _refuse_impossible(task)
        async with self._turn:
            started = time.monotonic()
            if self._info is None:
                self._info = await probe(self.program, env=self._env)
            try:
                await self._with_folder(task, self._info, on_progress)
            except OSError as error:
                raise EngineError(
                    f"Files could not be exchanged with the native program: {error.strerror}."
                ) from error
            on_progress(Progress(1.0, task.bottom - task.top, task.tile_size))
            return UpscaleOutcome(task.tile_size, time.monotonic() - started)

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many rows one task may have; see the function of this name."""
        return max_rows(width, scale)

    async def reset(self) -> None:
        """Do nothing: every task has a process of its own."""

    async def close(self) -> None:
        """End the running task, if there is one (it fails), and take no further ones."""
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
        """Run the program until it has ended by itself, and judge by what it said.

        Raises:
            EngineError: it reported a failure, left no result, took too long or was ended.
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
        output = NativeOutput()
        async with processes.running(program, env=self._env, cwd=folder) as child:
            self._child = child
            try:
                if self._closed:
                    raise EngineError("The engine was closed.")
                async with asyncio.timeout(self._timeout):
                    status = await self._listen(child, output, on_progress, task.tile_size)
            except TimeoutError:
                raise EngineError(
                    f"The native program did not finish within {self._timeout:g} seconds."
                ) from None
            finally:
                self._child = None
        self._note_device(output)
        if output.failure:
            raise EngineError(_sentence("The native program failed", output.failure))
        if self._closed:
            raise EngineError("The engine was closed.")
        if status == 0:
            return
        if not await asyncio.to_thread((folder / exchange.TARGET).exists):
            how = f"crashed with signal {-status}" if status < 0 else f"ended with status {status}"
            raise EngineError(_sentence(f"The native program {how}", output.last_words))
        # It has been seen to crash while tidying up behind a good result. Whether this one is
        # good, reading it will tell.
        log.warning(
            "The native program ended with status %d after writing a result: %s",
            status,
            output.last_words,
        )

    async def _listen(
        self, child: Child, output: NativeOutput, on_progress: ProgressCallback, tile_size: int
    ) -> int:
        """Read standard error until the program has ended; return its exit status."""
        loop = asyncio.get_running_loop()

        async def read(stalled: asyncio.Timeout) -> None:
            while data := await child.stderr.read(_READ_BYTES):
                if output.feed(data):
                    if self._stall is not None:
                        stalled.reschedule(loop.time() + self._stall)
                    on_progress(Progress(min(output.progress, _LAST_SHARE), 0, tile_size))
            output.finish()

        try:
            async with asyncio.timeout(self._stall) as stalled:
                reading = asyncio.create_task(read(stalled), name="native-stderr")
                ending = asyncio.create_task(child.wait(), name="native-exit")
                try:
                    await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done():
                        # The group is dead; only a process that fled it holds the pipe open.
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

    def _note_device(self, output: NativeOutput) -> None:
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


def _refuse_impossible(task: UpscaleTask) -> None:
    """Raise EngineError for what the program would answer with garbage or a crash."""
    if task.source.channels != 3:
        raise EngineError("The native program is given RGB only.", retryable=False)
    first, last = exchange.context_rows(task)
    size, scale = task.source.size, task.model.native_scale
    if _output_bytes(size.width, last - first, scale) >= _INT_LIMIT:
        raise EngineError(
            f"{size.width}×{last - first} pixels at scale {scale} are more than the native program "
            f"can count; it can do {max_rows(size.width, scale)} rows of them at once.",
            retryable=False,
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _sentence(what: str, words: str) -> str:
    return f"{what}: {words.rstrip('.!')}." if words else f"{what} without a word."


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Run ``work`` in a thread; when cancelled, tell it to stop and wait until it has."""
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
        running.exception()  # StoppedError, most likely: nobody else is to hear of it
        raise asyncio.CancelledError
    running.result()
