"""A server has room for the connections it promises, whatever its limits were when it started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testkit.paths import DATA

AT_ONCE = 300
FEW_FILES = 160

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
    ("soft", "hard", "after"), [(300, 4096, "1792 4096"), (2000, 4096, "2000 4096")]
)
def test_the_limit_is_raised_as_far_as_needed(soft: int, hard: int, after: str) -> None:
    assert limited(soft, hard, 512) == ("None", after)


def test_a_limit_that_may_not_be_raised_is_told_with_what_to_change() -> None:
    sentence, limits = limited(300, 1000, 512)
    assert limits == "1000 1000"
    assert sentence == (
        "With server.max_connections at 512, 1792 files may be open at once, and the system allows "
        "1000: raise LimitNOFILE in the service's unit (ulimit -Hn in a shell), or set "
        "server.max_connections to 248 or less. The server takes 248 now."
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


def test_a_flood_of_callers_takes_no_descriptor_from_a_job_and_fills_no_log(
    tmp_path: Path, models_dir: Path
) -> None:
    settings = {
        "STORAGE_DATA_DIR": str(tmp_path / "data"),
        "UPSCALER_MODELS_PATH": str(models_dir),
        "UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
        "UPSCALER_ENGINE": "builtin",
        "UPSCALER_GPU_IDS": "-1",
        "SERVER_PORT": "0",
        # Callers who say nothing keep their connections for as long as the test takes.
        "SERVER_HEADER_TIMEOUT_SECONDS": "60",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALED_")}
    env |= {f"UPSCALED_{name}": value for name, value in settings.items()}
    with (
        subprocess.Popen(
            ["sh", "-c", f'ulimit -n {FEW_FILES}; exec "$0" -m upscaled serve', sys.executable],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
        contextlib.ExitStack() as connections,
    ):
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rstrip().rpartition(":")[2])
            own = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connections.callback(own.close)
            assert own_answer(own, "GET", "/api/v1/models")  # the connection is in
            for _ in range(AT_ONCE):
                caller = connections.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(("127.0.0.1", port))
            picture = (DATA / "coffee.jpg").read_bytes()
            job = own_answer(own, "POST", "/api/v1/upscale", *multipart({"scale": "2"}, picture))
            told = own_answer(own, "GET", f"{job['status_url']}?wait=60")
            assert (told["status"], told.get("error")) == ("completed", None)
        finally:
            server.send_signal(signal.SIGTERM)
            _, errors = server.communicate(timeout=60)
    assert server.returncode == 0, errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) < 40, errors


def own_answer(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "",
) -> dict[str, Any]:
    headers = {"Content-Type": content_type} if content_type else {}
    connection.request(method, path, body, headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


def multipart(fields: dict[str, str], picture: bytes) -> tuple[bytes, str]:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return b"".join(parts) + head + picture + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
