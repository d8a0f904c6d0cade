"""The builtin engine: a resident process on the ncnn library, the model kept loaded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from upscaled.answering import Message
from upscaled.engines.messages import WORKER_MODULE, encode_task, worker_arguments, worker_env
from upscaled.engines.protocol import (
    Device,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.errors import EngineError
from upscaled.resident import ResidentWorker, WorkerDiedError, WorkerRefusedError

_HOPELESS = frozenset({"bad_model", "no_device", "too_little_memory"})
"""What no other tile size changes."""


class BuiltinEngine:
    """Inference on ``device`` in a process of its own, which the first task starts.

    Args:
        threads: CPU threads of the network; 0: one a core.
        memory_limit_mb: MiB that the process may hold; tiles are chosen to keep to it. None:
            half of what the machine or its control group has free.
        stall_seconds: a task that finishes no tile for so long fails, and its process is ended;
            None: no limit.
        at_once: how many tasks may be under way.
    """

    name = "builtin"
    program: Path | None = None

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 0,
        memory_limit_mb: int | None = None,
        stall_seconds: float | None = None,
        at_once: int = 1,
    ) -> None:
        self.device = device
        self._stall = stall_seconds
        self._clock = _SharedClock()
        self._worker = ResidentWorker(
            WORKER_MODULE,
            name=f"builtin engine ({device.id})",
            arguments=worker_arguments(
                device, threads=threads, memory_limit_mb=memory_limit_mb, at_once=at_once
            ),
            env=worker_env(),
            at_once=at_once,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self._worker.pid

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``; see `Engine.upscale`. A cancellation kills the worker at once.

        Raises:
            EngineError: the network can't be loaded or run, or the worker died.
        """
        loop = asyncio.get_running_loop()
        started = self._clock.begin()

        def alive() -> None:
            if self._stall is not None and not stalled.expired():
                stalled.reschedule(loop.time() + self._stall)

        def on_try() -> None:
            nonlocal started
            started = self._clock.shown()
            alive()

        def on_event(event: Message) -> None:
            alive()
            if "done" in event:  # else it has only begun
                on_progress(Progress(event["done"] / event["of"], event["rows"], event["tile"]))

        try:
            async with asyncio.timeout(self._stall) as stalled:
                reply = await self._worker.request(
                    encode_task(task), on_event=on_event, on_try=on_try
                )
        except TimeoutError:
            raise EngineError(
                f"The builtin engine finished no tile for {self._stall:g} seconds."
            ) from None
        except WorkerRefusedError as error:
            raise EngineError(error.message, retryable=error.kind not in _HOPELESS) from None
        except WorkerDiedError as error:
            sentence = str(error)
            raise EngineError(sentence[:1].upper() + sentence[1:].rstrip(".") + ".") from None
        finally:
            ended = self._clock.end()
        return UpscaleOutcome(tile_size=int(reply["tile_size"]), seconds=ended - started)

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many rows one task may have: any number, tiles are read one by one."""
        return 1 << 31

    async def reset(self) -> None:
        """End the worker; the next task starts a fresh one."""
        await self._worker.close()

    async def close(self) -> None:
        """End the worker, after the task in progress if there is one."""
        await self._worker.close()


class _SharedClock:
    """A clock that goes at an n-th of its speed while n tasks are under way."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._looked = 0.0
        self._tasks = 0

    def begin(self) -> float:
        """Count one task more; return the seconds that are shown."""
        self._look()
        self._tasks += 1
        return self._shown

    def end(self) -> float:
        """Count one task less; return the seconds that are shown."""
        self._look()
        self._tasks -= 1
        return self._shown

    def shown(self) -> float:
        """Return the seconds that are shown."""
        self._look()
        return self._shown

    def _look(self) -> None:
        now = time.monotonic()
        if self._tasks:
            self._shown += (now - self._looked) / self._tasks
        self._looked = now
