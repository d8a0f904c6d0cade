"""The builtin engine: a worker process with ncnn or OpenVINO that keeps models loaded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.protocol import (
    WORKER_MODULE,
    encode_task,
    worker_arguments,
    worker_env,
)
from upscaled.engines.engine import (
    Device,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.engines.tile_progress import TileProgress
from upscaled.engines.traits import BUILTIN
from upscaled.errors import EngineError, ShortageError, WorkerDeathError, WorkerFailedError
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerRefusedError,
    WorkerShortageError,
    WorkerStuckError,
)
from upscaled.workers.server import Message

log = logging.getLogger(__name__)

_PERMANENT = frozenset({"bad_model", "no_device", "too_little_memory"})
"""Errors that no other tile size changes."""


class BuiltinEngine:
    """Inference on ``device`` in a process of its own, which the first task starts.

    Args:
        device: where inference runs.
        threads: CPU threads of the network; 0: one for each core.
        memory_limit_mb: MiB that the process may hold; tiles are chosen to stay below it. None:
            half of the machine's memory.
        stall_seconds: a task that completes no tile for this long fails, and its process is killed;
            None: no limit.
        at_once: how many tasks may run at the same time.
        library: the preferred library on the CPU.
        networks: folder that keeps compiled networks; None: none are kept.
    """

    traits = BUILTIN
    program: Path | None = None

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 0,
        memory_limit_mb: int | None = None,
        stall_seconds: float | None = None,
        at_once: int = 1,
        library: CpuLibrary = CpuLibrary.NCNN,
        networks: Path | None = None,
    ) -> None:
        self.device = device
        self._stall = stall_seconds
        self._clock = _SharedClock()
        self._waiting: set[asyncio.Timeout] = set()
        self._worker = WorkerClient(
            WORKER_MODULE,
            name=f"builtin engine ({device.id})",
            arguments=worker_arguments(
                device,
                threads=threads,
                memory_limit_mb=memory_limit_mb,
                at_once=at_once,
                library=library,
                networks=networks,
            ),
            env=worker_env(),
            at_once=at_once,
            max_stuck=1,  # it holds the device
        )

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self._worker.pid

    @property
    def unusable(self) -> str | None:
        """See `Engine.unusable`."""
        stuck = self._worker.stuck
        return _sentence(stuck) if stuck else None

    def when_usable(self, callback: Callable[[], None]) -> None:
        """See `Engine.when_usable`."""
        self._worker.when_usable(callback)

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``; see `Engine.upscale`.

        Raises:
            EngineError: the network can't be loaded or run.
            WorkerDeathError: the worker died, or could not be started.
            WorkerFailedError: an earlier process of it hangs.
        """
        timer = _TaskTimer(self._clock)
        state = Progress(0.0, 0, 0)

        def report(share: float) -> None:
            on_progress(replace(state, share=share))

        progress = TileProgress(report)

        def wait_again() -> None:
            progress.stop()
            timer.stop()
            self._waiting.add(stalled)
            self._reset_stall_timers()

        def on_event(event: Message) -> None:
            nonlocal state
            if "note" in event:
                log.warning("%s", event["note"])
                wait_again()  # another library is tried
                return
            self._waiting.discard(stalled)
            self._reset_stall_timers(stalled)
            if "begun" in event:
                timer.start()
                return
            share = event["done"] / event["of"]
            state = Progress(
                share,
                event["rows"],
                event["tile"],
                event["library"],
                event["at_once"],
                event["threads"],
            )
            progress.step(share, event["running"] / event["of"], event["seconds"])

        try:
            async with asyncio.timeout(self._stall) as stalled:
                self._waiting.add(stalled)
                reply = await self._worker.request(
                    encode_task(task), on_event=on_event, on_retry=wait_again
                )
        except TimeoutError:
            raise EngineError(
                f"The builtin engine finished no tile for {self._stall:g} seconds."
            ) from None
        except WorkerRefusedError as error:
            raise EngineError(error.message, retryable=error.kind not in _PERMANENT) from None
        except WorkerShortageError as error:
            raise ShortageError(_sentence(error)) from None
        except WorkerStuckError as error:
            raise WorkerFailedError(_sentence(error), tile_matters=False) from None
        except WorkerDiedError as error:
            raise WorkerDeathError(_sentence(error)) from None
        finally:
            progress.stop()
            self._waiting.discard(stalled)
            timer.stop()
            self._reset_stall_timers()
        return UpscaleOutcome(tile_size=int(reply["tile_size"]), seconds=timer.seconds)

    def _reset_stall_timers(self, *running: asyncio.Timeout) -> None:
        """Reset the stall timers of ``running`` tasks and of all waiting tasks."""
        if self._stall is None:
            return
        deadline = asyncio.get_running_loop().time() + self._stall
        for stalled in {*running, *self._waiting}:
            if not stalled.expired():
                stalled.reschedule(deadline)

    def max_rows(self, width: int, scale: int) -> int:
        """See `Engine.max_rows`: there is no limit, since tiles are read one by one."""
        return 1 << 31

    async def reset(self) -> None:
        """End the worker; the next task starts a new one."""
        await self._worker.close()

    async def close(self) -> None:
        """End the worker, after the running tasks."""
        await self._worker.close()


def _sentence(error: Exception) -> str:
    words = str(error)
    return words[:1].upper() + words[1:].rstrip(".") + "."


class _TaskTimer:
    """Measures one task's part of the shared clock, without the time that it waits."""

    def __init__(self, clock: _SharedClock) -> None:
        self._clock = clock
        self._started: float | None = None
        self.seconds = 0.0
        """Of the last try."""

    def start(self) -> None:
        """Start the clock: the task runs. Does nothing if it is running already."""
        if self._started is None:
            self._started = self._clock.start()

    def stop(self) -> None:
        """Stop the clock: the task finished or restarts."""
        if self._started is not None:
            self.seconds = self._clock.stop() - self._started
            self._started = None


class _SharedClock:
    """A clock that runs at 1/n of its speed while n tasks run."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._updated = 0.0
        self._tasks = 0

    def start(self) -> float:
        """Add a running task; return the clock's seconds."""
        self._update()
        self._tasks += 1
        return self._seconds

    def stop(self) -> float:
        """Remove a running task; return the clock's seconds."""
        self._update()
        self._tasks -= 1
        return self._seconds

    def _update(self) -> None:
        now = time.monotonic()
        if self._tasks:
            self._seconds += (now - self._updated) / self._tasks
        self._updated = now
