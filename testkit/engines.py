"""Stand-ins for engines."""

from __future__ import annotations

from collections.abc import Callable

from upscaled.engines.engine import CPU, ProgressCallback, UpscaleOutcome, UpscaleTask
from upscaled.engines.traits import BUILTIN


class IdleEngine:
    """An engine that must not be given a task."""

    traits = BUILTIN
    device = CPU
    program = None
    closed = False

    unusable: str | None = None

    def when_usable(self, callback: Callable[[], None]) -> None:
        pass

    def max_rows(self, width: int, scale: int) -> int:
        return width * scale

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        raise AssertionError(f"never called: {task}, {on_progress}")

    async def reset(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True
