"""Submissions to a server process, from outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from testkit.server_process import ServerProcess


def only_network(models_dir: Path, stem: str, folder: Path) -> Path:
    """Make ``folder``, with the network ``stem`` of ``models_dir`` alone, and return it."""
    folder.mkdir()
    for file in models_dir.glob(f"{stem}.*"):
        (folder / file.name).symlink_to(file)
    return folder


async def completed(
    server: ServerProcess, picture: bytes, fields: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """Submit a picture, wait for the result, and return the job's id and its receipt."""
    async with aiohttp.ClientSession(server.url + "/") as session:
        form = aiohttp.FormData(fields)
        form.add_field("image", picture, filename="picture.png", content_type="image/png")
        async with session.post("upscale", data=form) as answer:
            assert answer.status == 202, await answer.text()
            job_id: str = (await answer.json())["job_id"]
        status = "queued"
        while status in {"queued", "processing"}:  # slow processors need more than one wait
            async with session.get(f"status/{job_id}?wait=60") as answer:
                status = (await answer.json())["status"]
        assert status == "completed"
        async with session.get(f"receipt/{job_id}") as answer:
            receipt: dict[str, Any] = await answer.json()
            return job_id, receipt
