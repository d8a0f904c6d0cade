"""The decoder's sandbox: what a compromised process can still reach."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from testkit.imaging import enlarged, finished
from testkit.paths import DATA
from upscaled.errors import EngineError
from upscaled.formats import RESULT_NAMES
from upscaled.imaging import FinishOptions, Imaging
from upscaled.imaging.fair_places import PlaceKind
from upscaled.imaging.sandbox import landlock, seccomp
from upscaled.imaging.sandbox.sandbox import Confinement, enter_sandbox
from upscaled.pictures import RawImage, Size

_TAKEN_OVER = """
import ctypes, json, os, resource, signal, socket, sys, threading
from pathlib import Path
from upscaled.imaging.sandbox.sandbox import enter_sandbox

inside, incoming, outside, address, port, parent = json.loads(sys.argv[1])
told = enter_sandbox([Path(incoming)], [Path(inside)])


def tcp():
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def own_folder():
    made = Path(inside, "made")
    made.write_bytes(b"x")
    made.rename(made.with_name("renamed"))
    made.with_name("renamed").unlink()


def thread():
    done = []
    one = threading.Thread(target=done.append, args=(1,))
    one.start()
    one.join()
    assert done


def raw(number):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "refused")


deeds = {
    "read outside": lambda: Path(outside, "secret").read_bytes(),
    "read /etc/passwd": lambda: Path("/etc/passwd").read_bytes(),
    "list /": lambda: os.listdir("/"),
    "write outside": lambda: Path(outside, "new").write_bytes(b""),
    "change outside": lambda: Path(outside, "secret").open("r+b").close(),
    "truncate outside": lambda: os.truncate(Path(outside, "secret"), 0),
    "delete outside": lambda: Path(outside, "secret").unlink(),
    "move out": lambda: Path(inside, "own").rename(Path(outside, "own")),
    "link in": lambda: os.link(Path(outside, "secret"), Path(inside, "secret")),
    "write where uploads lie": lambda: Path(incoming, "new").write_bytes(b""),
    "open permissions": lambda: os.chmod(Path(outside, "secret"), 0o777),
    "tcp": tcp,
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).connect(address),
    "run a program": lambda: os.execv(sys.executable, ["python", "-c", ""]),
    "fork": lambda: os.fork() or os._exit(0),
    "signal the server": lambda: os.kill(parent, 0),
    "starve the server": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (7, 7)),
    "slow the server": lambda: os.setpriority(os.PRIO_PROCESS, parent, 19),
    "own files": own_folder,
    "own upload": lambda: Path(incoming, "upload").read_bytes(),
    "own threads": thread,
    "import": lambda: __import__("xml.dom.minidom"),
}
outcome = {}
for name, deed in deeds.items():
    try:
        deed()
    except OSError as error:
        outcome[name] = type(error).__name__
    else:
        outcome[name] = "done"
print(json.dumps([told.active, told.lacking, outcome]))
"""

ALLOWED = {"own files", "own upload", "own threads", "import"}
BY_LANDLOCK = {
    *("read outside", "read /etc/passwd", "list /", "write outside", "change outside"),
    *("delete outside", "move out", "link in", "write where uploads lie", "run a program"),
}
BY_SECCOMP = {
    *("open permissions", "tcp", "udp", "unix socket", "run a program", "fork"),
    *("signal the server", "starve the server", "slow the server", "truncate outside"),
}


def taken_over(folder: Path) -> tuple[Confinement, dict[str, str]]:
    """Return the confinement, and the outcome of each action in it."""
    for name in ("inside", "incoming", "outside"):
        (folder / name).mkdir()
    (folder / "outside" / "secret").write_text("secret")
    (folder / "inside" / "own").write_text("own")
    (folder / "incoming" / "upload").write_text("upload")
    address = str(folder / "socket")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(address)
        local.listen()
        told = [str(folder / name) for name in ("inside", "incoming", "outside")]
        message = json.dumps([*told, address, server.getsockname()[1], os.getpid()])
        done = subprocess.run(
            [sys.executable, "-c", _TAKEN_OVER, message],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    active, lacking, outcome = json.loads(done.stdout)
    assert (folder / "outside" / "secret").read_text() == "secret" or not landlock.version()
    return Confinement(tuple(active), tuple(lacking)), outcome


def test_out_of_the_cell_nothing_can_be_reached_as_far_as_the_kernel_helps(
    tmp_path: Path,
) -> None:
    told, outcome = taken_over(tmp_path)
    closed: set[str] = set()
    # What an older kernel can't confine must be reported as lacking.
    if landlock.version():
        assert f"files (Landlock {landlock.version()})" in told.active
        closed |= BY_LANDLOCK | ({"truncate outside"} if landlock.version() >= 3 else set())
    else:
        assert any(reason.startswith("files (Landlock: ") for reason in told.lacking)
    if "system calls (seccomp)" in told.active:
        closed |= BY_SECCOMP
    else:
        assert any(reason.startswith("system calls (seccomp: ") for reason in told.lacking)
    assert {name for name in closed if outcome[name] == "done"} == set()
    assert {name for name in ALLOWED if outcome[name] != "done"} == set()
    assert len(told.active) + len(told.lacking) == 2


@pytest.mark.parametrize("means", ["landlock", "seccomp"])
def test_a_kernel_without_the_means_is_no_obstacle_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, means: str
) -> None:
    def missing(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    # The one that is there would confine this very process.
    monkeypatch.setattr(landlock, "restrict", missing if means == "landlock" else lambda *_: 5)
    monkeypatch.setattr(seccomp, "restrict", missing if means == "seccomp" else lambda _: None)
    told = enter_sandbox([], [tmp_path])
    assert len(told.active) == len(told.lacking) == 1
    assert f"{means}: Function not implemented" in told.lacking[0].lower().replace(
        "function", "Function"
    )
    assert str(told).endswith(f"; lacking: {told.lacking[0]}")


_WITHOUT = """
import json, sys
from upscaled.imaging import worker
from upscaled.imaging.sandbox import landlock, seccomp
from upscaled.imaging.sandbox.sandbox import restrictions
from upscaled.workers.server import RequestRefusedError

restrictions()  # as the process does before its first request
means, upload, folder = sys.argv[1:]
handler = worker.RequestHandler(("png",), 100, 512, 1)
active = handler.handle({"do": "ping"}, None)["active"]
def missing(*_):
    raise OSError(24, "Too many open files")
setattr({"landlock": landlock, "seccomp": seccomp}[means], "restrict", missing)
request = {"do": "prepare", "upload": upload, "workdir": folder, "required": active}
try:
    print(json.dumps([active, "done", handler.handle(request, None)]))
except RequestRefusedError as error:
    print(json.dumps([active, error.kind, error.message]))
"""


@pytest.mark.parametrize("means", ["landlock", "seccomp"])
def test_a_request_that_cannot_be_confined_as_the_first_one_was_is_not_done(
    means: str, tmp_path: Path
) -> None:
    upload, folder = tmp_path / "upload", tmp_path / "job"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(upload, "PNG")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, means, upload, folder], capture_output=True, check=True
    )
    active, kind, told = json.loads(done.stdout)
    if not any(means in measure.lower() for measure in active):
        assert kind == "done", "this kernel lacks it, so nobody relied on it"
        return
    assert kind == "unconfined"
    assert "Too many open files" in told
    assert not list(folder.iterdir())


@pytest.fixture
async def confined(tmp_path: Path) -> Any:
    """An `Imaging`, with folders for uploads and jobs."""
    for name in ("incoming", "jobs", "elsewhere"):
        (tmp_path / name).mkdir()
    made = Imaging(max_pixels=1_000_000, cpu_seconds=5)
    yield made
    await made.close()


async def test_a_worker_has_no_descriptor_but_its_pipes(confined: Imaging, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret, socket.create_server(("127.0.0.1", 0)) as one:
        os.set_inheritable(secret.fileno(), True)
        os.set_inheritable(one.fileno(), True)
        await confined.warm()
        (pid,) = [worker.pid for worker in confined._pool._workers if worker.pid]
        opened = await asyncio.to_thread(_descriptors, pid)
    # From 3.5 on, libffi (below ctypes) keeps its own file open, for reading.
    opened = [what for what in opened if not re.search(r"/libffi\.so\.[0-9.]+$", what)]
    assert len(opened) <= 5
    assert {what.partition(":")[0] for what in opened} <= {"pipe", "socket", f"/proc/{pid}/statm"}


async def test_a_header_is_read_while_every_encoder_is_busy(
    confined: Imaging, tmp_path: Path
) -> None:
    upload = tmp_path / "incoming" / "upload"
    Image.new("RGB", (8, 6)).save(upload, "PNG")
    async with confined._pool.hold(PlaceKind.JOB, ""), asyncio.timeout(30):
        assert confined._pool._places.free == 1
        assert (await confined.probe(upload)).size == Size(8, 6)


def _descriptors(pid: int) -> list[str]:
    return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]


_GREEDY = """
import json, os, resource, sys
from pathlib import Path
from upscaled.formats import RESULT_NAMES
from upscaled.imaging import worker
from upscaled.imaging.sandbox.child import run_in_child

def limits():
    return {"limits": Path("/proc/self/limits").read_text()}

worker.limits.confine(512)
def confined():
    worker.limits.allow(cpu_seconds=7, file_bytes=1000)
    return limits()
print(json.dumps(run_in_child(confined)))
"""


def test_a_request_is_limited_in_time_memory_files_and_cores() -> None:
    done = subprocess.run([sys.executable, "-c", _GREEDY], capture_output=True, check=True)
    lines = json.loads(done.stdout)["limits"].splitlines()
    hard = {line[:25].strip(): line[25:].split()[1] for line in lines}
    assert hard["Max core file size"] == "0"
    assert hard["Max address space"] == str(512 << 20)
    assert hard["Max cpu time"] == "8"
    assert hard["Max file size"] == "1000"
    assert int(hard["Max open files"]) <= 64


def _encodings() -> dict[str, Callable[[Image.Image, Path], None]]:
    return {
        "png": lambda image, path: image.save(path, "PNG"),
        "jpeg": lambda image, path: image.save(path, "JPEG"),
        "webp": lambda image, path: image.save(path, "WEBP"),
        "tiff": lambda image, path: image.save(path, "TIFF", compression="tiff_lzw"),
        "bmp": lambda image, path: image.save(path, "BMP"),
        "avif": lambda image, path: image.save(path, "AVIF"),
    }


@pytest.mark.parametrize("source", list(_encodings()))
async def test_every_format_is_read_and_written_inside_the_sandbox(
    confined: Imaging, tmp_path: Path, source: str
) -> None:
    upload, workdir = tmp_path / "incoming" / "upload", tmp_path / "jobs" / "1"
    workdir.mkdir()
    with Image.open(DATA / "astronaut.png") as photo:
        _encodings()[source](photo.convert("RGB").resize((48, 36)), upload)
    assert (await confined.probe(upload)).format == source
    prepared = await confined.prepare(upload, workdir)
    native = await asyncio.to_thread(enlarged, prepared)
    for target in RESULT_NAMES:
        options = FinishOptions(format=target, size=native.size)
        done = await finished(confined, prepared, native, workdir, options)
        assert done.path == workdir / f"result.{target}"
        assert done.path.stat().st_size == done.file_size_bytes


async def test_another_jobs_files_are_out_of_reach(confined: Imaging, tmp_path: Path) -> None:
    if not landlock.version():
        assert (await confined.warm()).lacking
        return
    mine, other = tmp_path / "jobs" / "1", tmp_path / "jobs" / "2"
    for folder in (mine, other):
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "upload", "PNG")
    prepared = await confined.prepare(mine / "upload", mine)
    stolen = replace(prepared, source=replace(prepared.source, path=mine / "link.rgb"))
    (mine / "link.rgb").symlink_to(other / "upload")
    native = await asyncio.to_thread(enlarged, prepared)
    elsewhere = FinishOptions(format="png", size=native.size)
    # The folder of another job is neither read through a link in one's own …
    shown = await asyncio.to_thread(_shown_to_a_child, stolen.source.path, mine)
    assert shown == "PermissionError"
    # … nor written to.
    assert await asyncio.to_thread(_shown_to_a_child, other / "new", mine) == "PermissionError"
    assert (await finished(confined, prepared, native, mine, elsewhere)).path.exists()


def _shown_to_a_child(path: Path, own: Path) -> str:
    """Return the error that opening ``path`` gives a process confined to the folder ``own``."""
    program = (
        "import sys; from pathlib import Path\n"
        "from upscaled.imaging.sandbox.sandbox import enter_sandbox\n"
        "enter_sandbox([], [Path(sys.argv[2])])\n"
        "try: open(sys.argv[1], 'rb' if Path(sys.argv[1]).name != 'new' else 'wb')\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, own], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


async def test_what_breaks_a_request_breaks_no_other(confined: Imaging, tmp_path: Path) -> None:
    nothing = RawImage(tmp_path / "nothing", Size(0, 0))
    await confined.warm()
    before = [worker.pid for worker in confined._pool._workers]
    with pytest.raises(EngineError, match="processing broke off: ZeroDivisionError"):
        await confined.check(nothing, nothing, 0, 1)
    assert (await confined.warm()).active is not None
    assert [worker.pid for worker in confined._pool._workers] == before
