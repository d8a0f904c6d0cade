"""The server behind real proxies, with the configurations of docs/proxies.md."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from testkit.child_processes import child_process
from testkit.curl import curl
from testkit.cut_downloads import broken_off
from testkit.proxies import KINDS, Proxy
from testkit.running import FAST_MODEL, Api, Server, a_picture

ALL = pytest.mark.parametrize("name", KINDS)
API = "/api/v1"


async def in_json(*arguments: str) -> dict[str, object]:
    """Run curl and return its answer."""
    done = await curl("-sS", "--fail-with-body", *arguments)
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


async def submitted(
    root: str, picture: Path, *more: str, model: str = FAST_MODEL, scale: int = 2
) -> dict[str, object]:
    return await in_json(
        "-F", f"image=@{picture}", "-F", f"model_name={model}", "-F", f"scale={scale}", *more,
        root + API + "/upscale",
    )  # fmt: skip


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(a_picture())
    return path


@ALL
async def test_submit_wait_and_download(
    proxy: Callable[[str], Proxy], name: str, picture: Path, tmp_path: Path
) -> None:
    root = proxy(name).root
    job = await submitted(root, picture)
    assert job["status_url"] == f"{API}/status/{job['job_id']}"
    status = await in_json(f"{root}{job['status_url']}?wait=45")
    assert status["status"] == "completed"
    result = tmp_path / "result.png"
    done = await curl("-sS", "--fail", "-o", str(result), f"{root}{status['download_url']}")
    assert done.returncode == 0, done
    assert result.stat().st_size == status["file_size_bytes"]


@ALL
async def test_links_and_documentation_are_right_under_a_path(
    proxy: Callable[[str], Proxy], name: str, picture: Path, tmp_path: Path
) -> None:
    root = proxy(name).path_root
    host = root.removesuffix("/upscaled")
    # What a caller sends under this name must not reach the server.
    job = await submitted(root, picture, "-H", "X-Forwarded-Prefix: /evil")
    assert job["status_url"] == f"/upscaled{API}/status/{job['job_id']}"
    status = await in_json(f"{host}{job['status_url']}?wait=45")
    assert str(status["download_url"]).startswith(f"/upscaled{API}/download/")
    done = await curl("-sS", "--fail", "-o", str(tmp_path / "x"), f"{host}{status['download_url']}")
    assert done.returncode == 0, done
    page = await curl("-sS", "--fail", "-L", f"{root}{API}/docs/")
    assert page.returncode == 0 and "swagger" in page.stdout
    asset = re.search(r'src="([^"]+bundle[^"]*)"', page.stdout)
    assert asset is not None, page.stdout
    address = asset[1] if asset[1].startswith("/") else f"/upscaled{API}/{asset[1]}"
    script = await curl("-sS", "--fail", "-o", str(tmp_path / "js"), host + address)
    assert script.returncode == 0, (address, script)


@ALL
async def test_a_prefix_that_a_caller_makes_up_does_not_reach_the_server(
    proxy: Callable[[str], Proxy], name: str, picture: Path
) -> None:
    job = await submitted(proxy(name).root, picture, "-H", "X-Forwarded-Prefix: /evil")
    assert job["status_url"] == f"{API}/status/{job['job_id']}"


@ALL
async def test_a_download_that_breaks_off_behind_the_proxy_can_be_continued_and_repeated(
    proxy: Callable[[str], Proxy], name: str, server: Server, api: Api, tmp_path: Path
) -> None:
    front = proxy(name)
    job_id = await api.completed()
    url = f"{front.root}{API}/download/{job_id}"
    target = tmp_path / "result.png"
    content = await broken_off(server, job_id, url, target)
    done = await curl("-sS", "--fail", "-C", "-", "-o", str(target), url)
    assert done.returncode == 0, done
    assert target.read_bytes() == content
    done = await curl("-sS", "--fail", "-o", str(target), url)
    assert done.returncode == 0 and target.read_bytes() == content
    deleted = await curl("-sS", "--fail", "-X", "DELETE", f"{front.root}{API}/jobs/{job_id}")
    assert deleted.returncode == 0 and not server.result_file(job_id).exists()


@asynccontextmanager
async def first_event(url: str) -> AsyncIterator[bytes]:
    """Open a stream of events for the length of the block; yield its first event."""
    async with child_process(
        "curl", "-sSN", "--fail", url, stdout=asyncio.subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            await process.stdout.readuntil(b"retry: 2000\n\n")
            event = await process.stdout.readuntil(b"\n\n")
        yield event


async def test_60_mb_go_up_events_come_at_once_and_answers_may_wait_45_seconds(
    proxy: Callable[[str], Proxy], server: Server, api: Api, large_upload: Path
) -> None:
    """All proxies at the same time, since the wait takes its 45 seconds.

    20 megapixels take the largest network many minutes, so that no job ends while it is waited for.
    """
    roots = [f"http://127.0.0.1:{server.port}", *(proxy(name).root for name in KINDS)]
    jobs: list[str] = []
    try:
        for root in roots:
            job = await submitted(root, large_upload, model="realesrgan-x4plus", scale=4)
            jobs.append(str(job["job_id"]))
            async with first_event(f"{root}{job['events_url']}") as event:
                assert jobs[-1].encode() in event, root
        waits = [
            in_json(f"{root}{API}/status/{job}?wait=60")
            for root, job in zip(roots, jobs, strict=True)
        ]
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:  # if one fails, the others end too
            waiting = [tasks.create_task(wait) for wait in waits]
        answers = [task.result() for task in waiting]
        assert asyncio.get_running_loop().time() - began > 40
        assert all(a["status"] in {"queued", "processing"} for a in answers), answers
    finally:
        for job_id in jobs:
            await api.post(f"/cancel/{job_id}")


@ALL
def test_the_page_names_the_size_and_the_times_of_the_settings(name: str) -> None:
    """A block must not fall behind the server's own limits."""
    from testkit.proxies import blocks
    from upscaled.api.waiting import ANSWER_SECONDS
    from upscaled.config.server_settings import ServerSettings

    largest = ServerSettings().max_request_size_mb
    for text in blocks(KINDS[name].heading):
        if name not in {"haproxy", "varnish", "traefik"}:  # they limit no body
            sizes = (f"{largest}m;", f"{largest}MiB", str(largest << 20), str(largest << 10))
            assert any(size in text for size in sizes), text
        times = [int(found) for found in re.findall(r"\b(\d+)s\b|idle = (\d+)|timeout=(\d+)", text)
                 for found in found if found and int(found) != 5]  # fmt: skip
        assert all(seconds > ANSWER_SECONDS for seconds in times), text
