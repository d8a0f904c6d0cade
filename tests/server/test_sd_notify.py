"""systemd is told: ready, alive, stopping; and nobody is told where nobody listens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from upscaled.server import sd_notify


@pytest.fixture(params=["path", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What systemd is to a service: a datagram socket, in a folder or in the abstract."""
    name = str(tmp_path / "notify")
    abstract = request.param == "abstract"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(60)
        listening.bind(f"\0{name}" if abstract else name)
        yield listening


def test_lines_arrive_in_one_datagram(supervisor: socket.socket) -> None:
    assert sd_notify.notify("READY=1", "STATUS=fine")
    assert supervisor.recv(4096) == b"READY=1\nSTATUS=fine"


@pytest.mark.parametrize("address", [None, "", "relative"])
def test_without_a_supervisor_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not sd_notify.notify("READY=1")


def test_a_supervisor_that_is_gone_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not sd_notify.notify("READY=1")
    assert "the supervisor could not be told" in caplog.text


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_or_nobodys(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert sd_notify.watchdog_seconds() == seconds


def test_the_server_tells_that_it_is_ready_lives_and_stops(
    tmp_path: Path, models_dir: Path
) -> None:
    address = tmp_path / "notify"
    settings = {
        "STORAGE_DATA_DIR": str(tmp_path / "data"),
        "UPSCALER_MODELS_PATH": str(models_dir),
        "UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
        "UPSCALER_ENGINE": "builtin",
        "UPSCALER_GPU_IDS": "-1",
        "SERVER_PORT": "0",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPSCALED_")}
    env |= {f"UPSCALED_{name}": value for name, value in settings.items()}
    env |= {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(120)
        listening.bind(str(address))
        server = subprocess.Popen(
            [sys.executable, "-m", "upscaled", "serve"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            told = [listening.recv(4096).decode()]
            while not told[-1].startswith("STATUS="):
                told.append(listening.recv(4096).decode())
            assert told[-1] == "STATUS=Listening; health after the self-test: ok."
            server.send_signal(signal.SIGTERM)
            while not told[-1].startswith("STOPPING=1"):
                told.append(listening.recv(4096).decode())
            printed, logged = server.communicate(timeout=60)
        finally:
            server.kill()
            server.communicate()
    assert server.returncode == 0, logged
    assert told[0] == "READY=1\nSTATUS=Listening; the self-test is running."
    assert "WATCHDOG=1" in told
    assert printed.startswith("Listening on http://127.0.0.1:")
    assert "Decoder's sandbox: " in logged
    assert "self-test passed device=cpu engine=builtin" in logged
