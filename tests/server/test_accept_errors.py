import asyncio
import errno
import logging

import pytest

from upscaled.server.accept_errors import AcceptErrors


async def test_thousands_of_refused_connections_are_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler, loop = AcceptErrors(), asyncio.get_running_loop()
    with caplog.at_level(logging.WARNING):
        for _ in range(5000):
            handler(
                loop,
                {
                    "message": "socket.accept() out of system resource",
                    "exception": OSError(errno.EMFILE, "Too many open files"),
                },
            )
        assert [record.getMessage() for record in caplog.records] == [
            "connections can't be accepted now; they wait"
        ]
        handler(loop, {"message": "Task exception was never retrieved"})
        handler(loop, {"message": "socket.accept() failed", "exception": ValueError("other")})
    assert len(caplog.records) == 3
