"""The jobs of one machine move into a cluster and back, whenever the move is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from testkit.cluster import Cluster, MemberProcess, result_digest
from testkit.job_records import multiply_job
from testkit.paths import DATA
from testkit.receiver import Receiver, receiving
from testkit.server_process import ServerProcess, server_process
from testkit.services import FAST
from testkit.waiting import until
from upscaled.workers import launcher

API = "/api/v1"
COPIES = 300
"""Records of jobs that were downloaded: enough that a move can be killed in the middle."""
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 1,
    "server.drain_seconds": 1,
    "features.web": False,
    "outgoing.allow": ["127.0.0.1"],
    "outgoing.ports": [],
    "webhooks.retry_seconds": [2] * 30,
}
ALONE = {name: value for name, value in SETTINGS.items() if not name.startswith("cluster.")}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> AsyncIterator[Cluster]:
    """PostgreSQL that runs, with an API server and a worker that do not."""
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, models_dir, servers=1, workers=1, settings=SETTINGS)
    await asyncio.to_thread(made.postgres.start)
    try:
        yield made
    finally:
        await made.close()


def photo(folder: Path, number: int, side: int = 40) -> bytes:
    file = folder / f"photo-{number}.png"
    with Image.open(DATA / "coffee.jpg") as whole:
        whole.crop((number * 50, 0, number * 50 + 200, 200)).resize((side, side)).save(file)
    return file.read_bytes()


class Mover:
    """Runs ``upscaled cluster import`` and ``export`` with the settings of a member."""

    def __init__(self, member: MemberProcess) -> None:
        self._config = member.config

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()),
            sys.executable, "-m", "upscaled", "cluster", *arguments, "--config", str(self._config),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env,
        )  # fmt: skip

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Return the status and what was said."""
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return process.returncode or 0, (out + err).decode()

    async def kill_when(self, condition: Callable[[], bool], *arguments: str) -> bool:
        """Kill the command when the condition holds; tell whether it was still running."""
        process = await self.start(*arguments)
        await until(lambda: process.returncode is not None or condition())
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.communicate()
        return process.returncode == -signal.SIGKILL


class Caller:
    """Asks one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def submit(self, picture: bytes, key: str = "", **fields: str) -> str:
        form = aiohttp.FormData({**FAST, **fields})
        form.add_field("image", picture, filename="photo.png")
        headers = {"Idempotency-Key": key} if key else {}
        async with self._session.post(self._url + "/upscale", data=form, headers=headers) as answer:
            assert answer.status in {200, 202}, await answer.text()
            return str((await answer.json())["job_id"])

    async def submit_with_key(self, folder: Path, receiver: Receiver) -> str:
        """Submit always the same, with an idempotency key and a receiver of messages."""
        return await self.submit(
            photo(folder, 3), key="twice", callback_url=receiver.url,
            callback_events="started,completed",
        )  # fmt: skip

    async def told(self, path: str) -> Any:
        async with self._session.get(self._url + path) as answer:
            return await answer.json()

    async def ended(self, job_id: str) -> str:
        """Wait for a job's end; return its state."""
        async with asyncio.timeout(120):
            while True:
                told = await self.told(f"/status/{job_id}?wait=20")
                if told["status"] not in {"queued", "processing"}:
                    return str(told["status"])

    async def digest(self, job_id: str, *, keep: bool = True) -> str:
        return await result_digest(self._session, self._url, job_id, keep=keep)


async def test_jobs_move_into_a_cluster_and_back_although_both_moves_are_killed(
    cluster: Cluster, tmp_path: Path, models_dir: Path
) -> None:
    (member,), (worker,) = cluster.servers, cluster.workers
    mover = Mover(member)
    async with receiving() as receiver, aiohttp.ClientSession() as session:
        receiver.hold = asyncio.Event()  # nothing is taken before the cluster runs
        async with server_process(tmp_path / "alone", models_dir, ALONE) as server:
            data, jobs, digests = await filled(server, session, tmp_path, receiver, mover)
        assert await mover.kill_when(
            lambda: len(lines(data / "import.journal")) > COPIES // 3, "import", "--from", str(data)
        )
        kept = len(lines(data / "import.journal")) - 1
        status, said = await mover.run("import", "--from", str(data))
        # It may have died between moving a job and noting that.
        before = [f"{number} jobs were moved before" for number in (kept, kept + 1)]
        assert (status, any(words in said for words in before)) == (0, True), said
        status, said = await mover.run("import", "--from", str(data))
        assert status == 2
        assert "are in a cluster already" in said

        receiver.hold.set()
        await asyncio.gather(member.start(), worker.start())
        caller = Caller(session, member.url + API)
        ends = {name: await caller.ended(job_id) for name, job_id in jobs.items()}
        assert ends == {
            "done": "completed", "fetched": "completed", "failed": "failed",
            "running": "completed", "waiting": "completed", "damaged": "failed",
        }  # fmt: skip
        for name, why in (("failed", "The server died once"), ("damaged", "missing or damaged")):
            assert why in (await caller.told(f"/status/{jobs[name]}"))["error"]
        assert await caller.digest(jobs["done"]) == digests["done"]
        gone = await caller.told(f"/status/{jobs['fetched']}")
        assert gone["result_gone"] == "downloaded"
        again = await caller.submit_with_key(tmp_path, receiver)
        assert again == jobs["waiting"], "its idempotency key moved along"
        await receiver.until(lambda: {r.json["data"]["job_id"] for r in receiver.taken}
                             >= {jobs["waiting"]})  # fmt: skip
        assert len({r.id for r in receiver.taken}) == len(receiver.taken)
        digests |= {name: await caller.digest(jobs[name]) for name in ("running", "waiting")}

        status, said = await mover.run("export", "--to", str(tmp_path / "back"))
        assert status == 2
        assert "These members of the cluster run" in said
        await worker.stop()
        jobs["late"] = await caller.submit(photo(tmp_path, 4))
        await member.stop()

        back = tmp_path / "back" / "data"
        partial = back / "jobs.sqlite3.export-wal"
        assert await mover.kill_when(
            lambda: partial.exists() and partial.stat().st_size > 200_000, "export", "--to",
            str(back),
        )  # fmt: skip
        assert not (back / "jobs.sqlite3").exists()
        status, said = await mover.run("export", "--to", str(back))
        assert status == 0, said
        # One that was killed after the database had forgotten the jobs ends what is left to do.
        (back / "jobs.sqlite3").rename(back / "jobs.sqlite3.exported")
        status, said = await mover.run("export", "--to", str(back))
        assert status == 0, said
        rows = cluster.postgres.execute("SELECT count(*) FROM jobs")
        assert rows == [(0,)]
        assert not [path for path in cluster.blobs.rglob("*") if path.parent.name == "uploads"]
        async with server_process(tmp_path / "back", models_dir, ALONE) as server:
            caller = Caller(session, server.url)
            assert len(server.jobs()) == COPIES + len(jobs)
            assert await caller.ended(jobs["late"]) == "completed"
            assert await caller.ended(jobs["failed"]) == "failed"
            assert await caller.submit_with_key(tmp_path, receiver) == jobs["waiting"]
            for name, digest in digests.items():
                assert await caller.digest(jobs[name]) == digest
            assert (await caller.told(f"/status/{jobs['fetched']}"))["result_gone"] == "downloaded"


def lines(file: Path) -> list[str]:
    return file.read_text("ascii").splitlines() if file.exists() else []


def states(server: ServerProcess) -> dict[str, object]:
    return {str(job["id"]): job["state"] for job in server.jobs()}


async def filled(
    server: ServerProcess,
    session: aiohttp.ClientSession,
    folder: Path,
    receiver: Receiver,
    mover: Mover,
) -> tuple[Path, dict[str, str], dict[str, str]]:
    """Give a server jobs in all states, and kill it; return its folder, the jobs and digests."""
    caller = Caller(session, server.url)
    jobs, digests = {"fetched": await caller.submit(photo(folder, 0))}, {}
    await caller.ended(jobs["fetched"])
    await caller.digest(jobs["fetched"], keep=False)
    await until(lambda: bool(server.jobs()[0]["result_gone"]))
    multiply_job(server.data_dir, COPIES)
    jobs["done"] = await caller.submit(photo(folder, 1))
    await caller.ended(jobs["done"])
    digests["done"] = await caller.digest(jobs["done"])
    slow = {"model_name": "realesrgan-x4plus", "scale": "4"}  # until the server is killed
    jobs["failed"] = await caller.submit(photo(folder, 5, side=120), **slow)
    await until(lambda: states(server)[jobs["failed"]] == "processing")
    await server.end(signal.SIGKILL)
    await server.start()
    await server.wait_until_healthy()
    assert await caller.ended(jobs["failed"]) == "failed", "the server has died during it"
    jobs["running"] = await caller.submit(photo(folder, 2, side=160), **slow)
    jobs["waiting"] = await caller.submit_with_key(folder, receiver)
    jobs["damaged"] = await caller.submit(photo(folder, 6))
    await until(lambda: states(server)[jobs["running"]] == "processing")
    status, said = await mover.run("import", "--from", str(server.data_dir))
    assert status == 2
    assert f"Another upscaled process uses {server.data_dir}; stop it first" in said
    await server.end(signal.SIGKILL)
    active = {jobs[name] for name in ("running", "waiting", "damaged")}
    found = {job_id for job_id, state in states(server).items() if state != "completed"}
    assert found == active | {jobs["failed"]}
    upload = server.data_dir / "jobs" / jobs["damaged"] / "upload"
    upload.write_bytes(bytes(upload.stat().st_size))
    return server.data_dir, jobs, digests


async def test_a_member_does_not_start_on_the_folder_of_one_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    for command in ("serve", "work"):
        member = MemberProcess(tmp_path / command, command, cluster.settings)
        data = tmp_path / command / "data"
        (data / "jobs").mkdir(parents=True)
        (data / "jobs.sqlite3").touch()
        with pytest.raises(RuntimeError, match="which holds the jobs of one machine"):
            await member.start()
        assert member.process is not None
        assert await member.process.wait() == 2
    status, said = await Mover(cluster.servers[0]).run("import", "--from", str(tmp_path))
    assert status == 2
    assert f"There are no records of jobs in {tmp_path}" in said
