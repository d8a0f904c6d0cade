"""The curl lines of the documents, run as a reader pastes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from testkit import contract
from testkit.books import a_page, packed
from testkit.child_processes import child_process
from testkit.paths import ROOT
from testkit.receiver import Receiver, receiving
from testkit.running import FAST_MODEL, Api, Server, a_picture, configured
from testkit.waiting import SLOW

HOST = "http://localhost:8089"
JOB, SECOND_JOB = "1769781953720134401", "1769781953720134402"
PHOTO = a_picture(400, 270, "JPEG")
"""Its result is wide and high enough for the tile that the page fetches."""
LARGE = a_picture(1000, 800, "JPEG")
"""The page's preview is a part of it."""
CURL = 'curl() { command curl -sS --fail --max-time 60 "$@"; }\n'
"""Before each block: a refusal ends it."""
FOLLOWED = 'curl() { command curl -sS --fail --max-time 1 "$@" || [ $? = 28 ]; }\n'
"""The same for a stream that has no end."""


def blocks(page: str) -> list[str]:
    """Return the blocks of a page that have curl lines for a server on this machine."""
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [block for block in found if "curl" in block]


def runnable() -> list[str]:
    """Return the blocks that run as they are."""
    pages = ("docs/api.md", "docs/webhooks.md", "docs/metrics.md")
    return [
        block
        for page in pages
        for block in blocks(page)
        # test_main runs the walk with a job; test_resumable breaks uploads off.
        if "JOB=" not in block and "Upload-Offset: 7340032" not in block
    ]


@pytest.fixture(scope="module")
def equipped(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with all that the pages tell of."""
    config = configured(
        tmp_path_factory.mktemp("data"),
        models_dir,
        upscaler__default_model=FAST_MODEL,
        storage__result_cache_mb="64",
        features__image_url="true",
        outgoing__allow="127.0.0.1",
        outgoing__ports="",
    )
    running = Server(config, self_test=True)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A server that has the picture and takes messages."""
    async with receiving(lambda _: web.Response(body=PHOTO)) as running:
        yield running


async def archive(api: Api) -> str:
    """Return the id of an archive that is ready."""
    book = packed([("1.png", a_page(1))])
    headers = {"Content-Type": "application/zip"}
    query = f"?model_name={FAST_MODEL}&scale=2&filename=book.zip"
    sent = await api.post(f"/archives{query}", data=book, headers=headers)
    ready = await api.get(f"/archives/{sent.json['archive_id']}?wait=45")
    assert ready.json["status"] == "completed"
    return str(sent.json["archive_id"])


async def fitted(block: str, api: Api, receiver: Receiver) -> str:
    """Return a block with ids that exist, on this test's server."""
    if "/cancel/" in block:
        block = block.replace(JOB, await api.accepted(a_picture(300, 300), **SLOW))
    if "/archives/" in block:
        block = block.replace(JOB, await archive(api))
    for job_id in (JOB, SECOND_JOB):
        if job_id in block:
            block = block.replace(job_id, await api.completed(PHOTO, scale="4"))
    block = re.sub(r"https://(photos|books)\.example", f"http://127.0.0.1:{receiver.port}", block)
    return block.replace(HOST, api.server.url.removesuffix("/api/v1"))


@pytest.mark.parametrize("block", runnable(), ids=lambda block: block.split("\n")[0][:60])
async def test_curl_lines_work_as_they_are_pasted(
    equipped: Server, receiver: Receiver, tmp_path: Path, block: str
) -> None:
    (tmp_path / "photo.jpg").write_bytes(LARGE if "/preview" in block else PHOTO)
    (tmp_path / "page.jpg").write_bytes(PHOTO)
    (tmp_path / "book.cbz").write_bytes(packed([("1.png", a_page(1))]))
    async with Api(equipped) as api:
        script = await fitted(block, api, receiver)
    endless = re.search(r"curl -N \S+/api/v1/events$", block, re.MULTILINE)
    async with child_process(
        *("bash", "-euc", (FOLLOWED if endless else CURL) + script),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    ) as process:
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode("utf-8", "replace")


def test_every_endpoint_has_a_curl_line() -> None:
    text = "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md"))
    joined = text.replace("\\\n", " ").replace("$API", HOST + "/api/v1")
    lines = re.findall(r"curl [^\n]*/api/v1/[^\n`]*", joined)
    for path, operations in contract.document()["paths"].items():
        address = re.sub(r"\\{\w+\\}", r"[^/?\\s]+", re.escape(path)) + r"(?=[?\s\"')]|$)"
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            found = [line for line in lines if re.search("/api/v1" + address, line)]
            assert any(method == method_of(line) for line in found) or path == "/docs", (
                f"{method} {path}"
            )


def method_of(line: str) -> str:
    """Return the method that a curl line sends."""
    if named := re.search(r"-X (\w+)", line):
        return named[1].lower()
    if re.search(r" (-F|--data-binary) ", line):
        return "post"
    return "put" if " -T " in line else "get"
