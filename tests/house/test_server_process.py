"""The server process that tests and benches start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from testkit.child_processes import is_running
from testkit.server_process import ServerError, server_process

FAST = {"upscaler.default_model": "realesr-animevideov3"}


async def test_servers_one_after_another_report_that_they_are_healthy(
    tmp_path: Path, models_dir: Path
) -> None:
    for name in ("first", "second"):
        async with server_process(tmp_path / name, models_dir, FAST) as server:
            pid = server.pid
            assert is_running(pid)
            await server.wait_until_ready()
            status, outlived = await server.stop()
            assert (status, outlived) == (0, [])
            await server.start()
            await server.wait_until_healthy()
            assert server.pid != pid
        assert not is_running(server.pid)


async def test_a_server_that_ends_instead_of_serving_says_why(
    tmp_path: Path, models_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"Port {port} of 127\.0\.0\.1 can't be listened on"):
            async with server_process(
                tmp_path / "server", models_dir, {**FAST, "server.port": port}
            ):
                pass
