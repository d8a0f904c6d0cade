"""Members whose roles in the database may do no more than they need."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg
import pytest

from testkit.cluster import MemberProcess, healthy
from testkit.ports import free_port
from testkit.postgres import PostgresServer
from testkit.services import FAST

API = "/api/v1"


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    """A database, and roles that own nothing."""
    for role in ("api", "work"):
        postgres.execute(f"DROP ROLE IF EXISTS {role}")
        postgres.execute(f"CREATE ROLE {role} LOGIN")
    with postgres.database() as url:
        yield url
    for role in ("api", "work"):
        postgres.execute(f"DROP ROLE {role}")


def member(folder: Path, models: Path, command: str, url: str, role: str) -> MemberProcess:
    settings: dict[str, object] = {
        "cluster.database_url": url.replace("//upscaled@", f"//{role}@"),
        "cluster.blobs": str(folder / "blobs"),
        "cluster.lease_seconds": 2,
        "upscaler.models_path": str(models),
        "upscaler.engine": "builtin",
        "upscaler.gpu_ids": [-1],
        "upscaler.calibrate": False,
        "upscaler.default_model": FAST["model_name"],
        "outgoing.allow": ["127.0.0.1"],
        "outgoing.ports": [],
    }
    return MemberProcess(folder / f"{command}-{role}", command, settings)


def upscaled(member: MemberProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upscaled", *arguments, "--config", str(member.config)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def refused(url: str, role: str, statement: str) -> bool:
    with psycopg.connect(url.replace("//upscaled@", f"//{role}@")) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        connection.rollback()
        return False


async def test_members_work_with_roles_that_may_do_nothing_else(
    tmp_path: Path, models_dir: Path, url: str, thumbnail: Path
) -> None:
    server = member(tmp_path, models_dir, "serve", url, "api")
    worker = member(tmp_path, models_dir, "work", url, "work")
    owner = member(tmp_path, models_dir, "serve", url, "upscaled")
    early = await asyncio.to_thread(upscaled, server, "serve")
    assert early.returncode == 2
    assert "has version 0 of the schema, this program needs 1, and the role" in early.stderr
    assert "Run `upscaled cluster grant` as the owner of the database first." in early.stderr
    command = ("cluster", "grant", "--servers", "api", "--workers", "work")
    for first in (True, False):
        done = await asyncio.to_thread(upscaled, owner, *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("api may be an API server and work a worker.")
        if first:  # a right that a later version would need
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("REVOKE SELECT ON cluster FROM work")
            done = await asyncio.to_thread(upscaled, worker, "work")
            assert done.returncode == 2
            assert "lacks a right in the database: permission denied for table" in done.stderr
    try:
        await asyncio.gather(server.start(), worker.start())
        await healthy(server.url, 1)
        async with aiohttp.ClientSession(server.url) as session:
            await _use(session, thumbnail.read_bytes())
            await _use_without_a_right(session, thumbnail.read_bytes(), worker, url)
    finally:
        assert await worker.stop() == 0
        assert await server.stop() == 0
    for role, statement, expected in (
        ("work", "DELETE FROM jobs", True),
        ("work", "INSERT INTO jobs (id) VALUES ('1')", True),
        ("work", "SELECT key FROM submission_keys", True),
        ("work", "SELECT url, body FROM messages", True),
        ("work", "DELETE FROM messages", True),
        ("work", "CREATE TABLE mine (id INTEGER)", True),
        ("work", "UPDATE offered_bands SET attempt = 1", True),
        ("work", "SELECT id FROM jobs", False),
        ("api", "CREATE TABLE mine (id INTEGER)", True),
        ("api", "ALTER TABLE jobs ADD COLUMN mine INTEGER", True),
        ("api", "SELECT document FROM offered_bands", True),
        ("api", "UPDATE offered_bands SET worker = NULL", True),
        ("api", "DELETE FROM jobs", False),
    ):
        assert await asyncio.to_thread(refused, url, role, statement) is expected, statement


async def _use(session: aiohttp.ClientSession, picture: bytes) -> None:
    """Let a job complete, with a webhook and a key, and another one that is deleted."""

    async def post(**fields: str) -> dict[str, str]:
        form = aiohttp.FormData(FAST | fields)
        form.add_field("image", picture, filename="photo.png")
        headers = {"Idempotency-Key": fields.get("client_ref", "a")}
        async with session.post(API + "/upscale?wait=45", data=form, headers=headers) as answer:
            assert answer.status in {200, 202}, await answer.text()
            told: dict[str, str] = await answer.json()
            return told

    done = await post(callback_url=f"http://127.0.0.1:{free_port()}/", client_ref="b")
    assert done["status"] == "completed"
    async with session.get(f"{API}/download/{done['job_id']}") as answer:
        assert answer.status == 200
        assert await answer.read()
    async with session.get(f"{API}/webhooks/{done['job_id']}") as answer:
        told = [message["event"] for message in (await answer.json())["messages"]]
    assert told == ["completed"]
    other = await post(scale="4", client_ref="c")
    async with session.delete(f"{API}/jobs/{other['job_id']}") as answer:
        assert answer.status == 204


async def _use_without_a_right(
    session: aiohttp.ClientSession, picture: bytes, worker: MemberProcess, url: str
) -> None:
    """A worker that may not record an end waits until it may."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("REVOKE INSERT ON messages FROM work")
        form = aiohttp.FormData(FAST | {"callback_url": f"http://127.0.0.1:{free_port()}/"})
        form.add_field("image", picture, filename="photo.png")
        async with session.post(API + "/upscale", data=form) as answer:
            job_id = (await answer.json())["job_id"]
        await worker.said("job's end waits for the stores")
        owner.execute("GRANT INSERT ON messages TO work")
    async with session.get(f"{API}/download/{job_id}?wait=45") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("servers", "workers", "sentence"),
    [
        ("api", "api", "Name two roles; API servers and workers have different rights."),
        ("api", "nobody-here", "The database has no role nobody-here; make it first"),
        ("upscaled", "work", "upscaled owns the tables, so it may do everything with them"),
    ],
)
async def test_roles_that_can_t_be_used_are_named(
    tmp_path: Path, models_dir: Path, url: str, servers: str, workers: str, sentence: str
) -> None:
    owner = member(tmp_path, models_dir, "serve", url, "upscaled")
    command = ("cluster", "grant", "--servers", servers, "--workers", workers)
    done = await asyncio.to_thread(upscaled, owner, *command)
    assert done.returncode == 2
    assert sentence in done.stderr
