"""Stand-ins for engines."""

from __future__ import annotations

from upscaled.engines.engine import (
    CPU,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)


class IdleEngine:
    """An engine that must not be given a task."""

    name = "builtin"
    device = CPU
    program = None
    closed = False

    def max_rows(self, width: int, scale: int) -> int:
        return width * scale

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        raise AssertionError(f"never called: {task}, {on_progress}")

    async def reset(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True
