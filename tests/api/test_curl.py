"""The guide, followed literally with curl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from testkit.curl import curl
from testkit.running import FAST_MODEL, Server, a_picture


async def test_the_walk_through_of_the_guide_works_as_written(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(a_picture(24, 16, "JPEG"))
    submitted = await curl(
        *("-sS", "-X", "POST", f"{server.url}/upscale", "-F", "image=@photo.jpg"),
        *("-F", "scale=4", "-F", "format=png", "-F", f"model_name={FAST_MODEL}"),
        cwd=tmp_path,
    )
    told = json.loads(submitted.stdout)
    assert told["success"] is True
    origin = server.url.removesuffix("/api/v1")

    await server.ended(told["job_id"])
    polled = await curl("-sS", origin + told["status_url"])
    assert '"status":"completed"' in polled.stdout
    fetched = await curl(
        "-sS", "-OJ", origin + json.loads(polled.stdout)["download_url"], cwd=tmp_path
    )
    assert fetched.returncode == 0, fetched
    with Image.open(tmp_path / "photo_4x.png") as result:
        assert (result.format, result.size) == ("PNG", (96, 64))
    again = await curl(
        "-sS", "-w", "%{http_code}", origin + json.loads(polled.stdout)["download_url"]
    )
    assert again.stdout.endswith("410")


@pytest.mark.parametrize(
    "options",
    [
        ["-H", "Expect:"],
        ["-H", "Expect: 100-continue"],
        ["-H", "Expect:", "-H", "Transfer-Encoding: chunked"],
    ],
)
async def test_too_large_an_upload_is_told_so_and_leaves_nothing(
    serve: Callable[..., Server], tmp_path: Path, options: list[str]
) -> None:
    small = serve(server__max_request_size_mb="50")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(60 << 20)
    done = await curl(
        *("-sS", "-w", "\n%{http_code} %{size_upload}", *options, "-F", "image=@huge.png"),
        f"{small.url}/upscale",
        cwd=tmp_path,
    )
    body, _, figures = done.stdout.rpartition("\n")
    assert figures.split()[0] == "413", done
    assert json.loads(body) == {
        "success": False,
        "error": "The request is larger than the 50 MiB this server takes.",
        "code": "too_large",
    }
    if options[1] == "Expect: 100-continue":
        assert int(figures.split()[1]) < 2**20, "the body was sent although it was not wanted"
    assert small.uploads() == []


async def test_a_large_upload_that_is_taken_is_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk" * 2**19)
    done = await curl(
        *("-sS", "-v", "-H", "Expect: 100-continue", "-F", "image=@junk.png"),
        f"{server.url}/upscale",
        cwd=tmp_path,
    )
    assert "100 Continue" in done.stderr
    assert json.loads(done.stdout)["code"] == "unsupported_format"
