"""The server process: it can be stopped while it starts."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from testkit.services import make_config
from upscaled.server.serve import serve
from upscaled.service.service import Service


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_that_is_asked_for_during_the_start_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    began, tidied = asyncio.Event(), asyncio.Event()

    async def long_start(_self: Service) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            tidied.set()

    monkeypatch.setattr(Service, "start", long_start)
    config = make_config(tmp_path / "data", tmp_path / "models", server__port="0")
    serving = asyncio.create_task(serve(config, lambda _: pytest.fail("it never was ready")))
    async with asyncio.timeout(60):
        await began.wait()
        os.kill(os.getpid(), number)
        await serving
    assert tidied.is_set()
