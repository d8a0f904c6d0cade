"""A server has room for the connections it promises, whatever its limits were when it started."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

AT_ONCE = 300

_CODE = """
import resource, sys
from upscaled.server.open_files import make_room
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(make_room(connections))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(soft: int, hard: int, connections: int) -> tuple[str, str]:
    """Return what a process with these limits is told, and its limits afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(soft), str(hard), str(connections)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    sentence, limits = done.stdout.splitlines()
    return sentence, limits


@pytest.mark.parametrize(
    ("soft", "hard", "after"), [(300, 4096, "1280 4096"), (2000, 4096, "2000 4096")]
)
def test_the_limit_is_raised_as_far_as_needed(soft: int, hard: int, after: str) -> None:
    assert limited(soft, hard, 512) == ("None", after)


def test_a_limit_that_may_not_be_raised_is_told_with_what_to_change() -> None:
    sentence, limits = limited(300, 1000, 512)
    assert limits == "1000 1000"
    assert sentence == (
        "With server.max_connections at 512, 1280 files may be open at once, and the system allows "
        "1000: raise LimitNOFILE in the service's unit (ulimit -Hn in a shell), or set "
        "server.max_connections to 372 or less."
    )


def test_callers_that_come_all_at_once_are_all_answered(tmp_path: Path, models_dir: Path) -> None:
    """They come while the server does not look, and are more than its limit was for."""
    settings = {
        "STORAGE_DATA_DIR": str(tmp_path / "data"),
        "UPSCALER_MODELS_PATH": str(models_dir),
        "UPSCALER_ENGINE": "builtin",
        "UPSCALER_GPU_IDS": "-1",
        "SERVER_PORT": "0",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALED_")}
    env |= {f"UPSCALED_{name}": value for name, value in settings.items()}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        subprocess.Popen(
            ["sh", "-c", f'ulimit -Sn {AT_ONCE // 2}; exec "$0" -m upscaled serve', sys.executable],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
        contextlib.ExitStack() as connections,
    ):
        assert hard == resource.RLIM_INFINITY or hard > 2 * AT_ONCE
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rstrip().rpartition(":")[2])
            server.send_signal(signal.SIGSTOP)
            selector = connections.enter_context(selectors.DefaultSelector())
            callers = [connections.enter_context(socket.socket()) for _ in range(AT_ONCE)]
            for caller in callers:
                caller.setblocking(False)
                caller.connect_ex(("127.0.0.1", port))
                selector.register(caller, selectors.EVENT_WRITE)
            while selector.get_map():
                ready = selector.select(0.5)  # who is not let in tries again after a second
                assert ready, f"{len(selector.get_map())} of {AT_ONCE} were not let in"
                for key, _ in ready:
                    selector.unregister(key.fileobj)
            server.send_signal(signal.SIGCONT)
            for caller in callers:
                caller.setblocking(True)
                caller.settimeout(60)
                caller.sendall(b"GET /api/v1/models HTTP/1.1\r\nHost: here\r\n\r\n")
            assert {caller.recv(12) for caller in callers} == {b"HTTP/1.1 200"}
        finally:
            server.send_signal(signal.SIGCONT)
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=60)
        assert server.returncode == 0, errors
        assert "Traceback" not in errors
