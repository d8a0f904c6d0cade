"""The client against the real server."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from testkit.running import FAST_MODEL, Server, a_picture
from upscaled.client import (
    AsyncClient,
    Client,
    FieldRefusedError,
    JobCancelledError,
    JobStatus,
    LocalFileError,
    NoSuchJobError,
    NotPossibleError,
    PictureRefusedError,
    ResultDeletedError,
)
from upscaled.pictures import Size

FAST = {"model_name": FAST_MODEL, "scale": 2}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "Änderung 1.png"
    path.write_bytes(a_picture())
    return path


async def test_a_picture_goes_there_and_comes_back(
    client: AsyncClient, picture: Path, tmp_path: Path
) -> None:
    told: list[JobStatus] = []
    target = tmp_path / "large.webp"
    status = await client.upscale(
        picture, target, {**FAST, "format": "webp", "lossless": True}, on_progress=told.append
    )
    assert (status.status, status.output_size) == ("completed", Size(48, 32))
    with Image.open(target) as result:
        assert (result.format, result.size) == ("WEBP", (48, 32))
    assert told[-1].ended
    assert [one.progress for one in told] == sorted(one.progress or 0 for one in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.webp", picture.name]


async def test_a_download_has_the_servers_digest(
    client: AsyncClient, server: Server, tmp_path: Path
) -> None:
    job_id = await client.submit(a_picture(), FAST)
    await client.wait(job_id)
    content = await asyncio.to_thread(server.result_file(job_id).read_bytes)
    done = await client.download(job_id, tmp_path / "out.png")
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert done.path.read_bytes() == content
    with pytest.raises(ResultDeletedError) as told:
        await client.download(job_id, tmp_path / "again.png")
    assert told.value.code == "already_downloaded"
    assert not (tmp_path / "again.png").exists()


async def test_refusals_carry_the_servers_code_and_sentence(
    client: AsyncClient, picture: Path, tmp_path: Path
) -> None:
    with pytest.raises(FieldRefusedError) as field:
        await client.submit(picture, {"scale": 7})
    assert (field.value.code, field.value.status) == ("bad_request", 400)
    assert field.value.message == "The field scale is '7'; it must be 2, 3 or 4."
    with pytest.raises(FieldRefusedError) as model:
        await client.submit(picture, {"model_name": "nobody"})
    assert model.value.code == "unknown_model"
    with pytest.raises(PictureRefusedError) as kind:
        await client.submit(b"no picture at all", name="text.png")
    assert kind.value.code == "unsupported_format"
    with pytest.raises(NoSuchJobError):
        await client.status("1" * 19)
    with pytest.raises(LocalFileError, match="No such file"):
        await client.submit(tmp_path / "none.png")


async def test_a_job_is_listed_cancelled_and_deleted(client: AsyncClient, tmp_path: Path) -> None:
    job_id = await client.submit(
        a_picture(400, 300), {"model_name": "realesrgan-x4plus", "client_ref": "mine"}
    )
    with pytest.raises(NotPossibleError) as early:
        await client.delete(job_id)
    assert early.value.code == "wrong_state"
    listed = [job async for job in client.jobs(client_ref="mine")]
    assert [job.job_id for job in listed] == [job_id]
    assert listed[0].created is not None
    waiting = asyncio.create_task(client.wait(job_id))
    await client.cancel(job_id)
    with pytest.raises(JobCancelledError) as told:
        await waiting
    assert told.value.job.job_id == job_id
    await client.delete(job_id)
    await client.delete(job_id)
    assert [job async for job in client.jobs(client_ref="mine")] == []


async def test_a_cancelled_call_cancels_its_job(client: AsyncClient, tmp_path: Path) -> None:
    begun = asyncio.Event()
    work = asyncio.create_task(
        client.upscale(
            a_picture(400, 300),
            tmp_path / "out.png",
            {"model_name": "realesrgan-x4plus", "client_ref": "given up"},
            on_progress=lambda _: begun.set(),
        )
    )
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [job.status async for job in client.jobs(client_ref="given up")] == ["cancelled"]


async def test_many_pages_of_jobs_are_one_list(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.client.transport._PAGE", 2)
    ids = [await client.submit(a_picture(), {**FAST, "client_ref": "paged"}) for _ in range(5)]
    assert {job.job_id async for job in client.jobs(client_ref="paged")} == set(ids)


async def test_models_estimates_and_health_are_told(client: AsyncClient) -> None:
    models = await client.models()
    assert FAST_MODEL in {model.name for model in models}
    estimate = await client.estimate(300, 200, FAST)
    assert (estimate.input_size, estimate.output_size) == (Size(300, 200), Size(600, 400))
    assert estimate.seconds > 0
    health = await client.health()
    assert health.status in {"ok", "starting"}
    assert health.engine == "builtin"


def test_the_plain_client_does_the_same(server: Server, picture: Path, tmp_path: Path) -> None:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        status = client.upscale(picture, tmp_path / "out.png", {**FAST, "client_ref": "plain"})
        assert status.output_size == Size(48, 32)
        assert [job.job_id for job in client.jobs(client_ref="plain")] == [status.job_id]
        with pytest.raises(FieldRefusedError):
            client.submit(picture, {"scale": "seven"})
    client.close()


def test_nothing_of_the_server_is_imported() -> None:
    code = "import sys, upscaled.client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    allowed = {"client", "errors", "files", "pictures", "serial"}
    own = {name.split(".")[1] for name in loaded if name.startswith("upscaled.")}
    assert own == allowed
    assert not {"numpy", "PIL", "ncnn", "aiohttp.web", "yaml"} & set(loaded)
