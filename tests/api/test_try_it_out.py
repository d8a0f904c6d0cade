"""The page of the contract in a real browser: "Try it out" works as one finds it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page

from testkit.browser import browser_page
from testkit.running import FAST_MODEL, Api, Server, a_picture


@pytest.fixture
async def page(server: Server) -> AsyncIterator[Page]:
    """The page, in a browser."""
    async with browser_page() as opened:
        await opened.goto(f"{server.url}/docs")
        yield opened


async def tried(page: Page, operation: str) -> Locator:
    """Unfold an operation, press "Try it out" and return its part of the page."""
    found = page.locator(f"[id$='-{operation}'].opblock")
    await found.locator(".opblock-summary-control").click()
    await found.get_by_role("button", name="Try it out").click()
    return found


async def executed(
    page: Page,
    operation: str,
    url: str,
    fields: Mapping[str, str] | None = None,
    picture: Path | None = None,
) -> tuple[int, bytes]:
    """Fill in an operation's form and press Execute; return status and body of the answer."""
    found = await tried(page, operation)
    if picture is not None:
        await found.locator("input[type=file]").set_input_files(picture)
    for name, value in (fields or {}).items():
        row = found.locator(f"[data-property-name='{name}'], [data-param-name='{name}']").last
        await row.locator("input[type=text]").fill(value)
    async with page.expect_response(url) as response:
        await found.get_by_role("button", name="Execute").click()
    answer = await response.value
    return answer.status, await answer.body()


@pytest.mark.parametrize("fields", [{}, {"width": "40"}])
async def test_a_picture_is_submitted_by_choosing_it_and_pressing_execute(
    page: Page, tmp_path: Path, fields: dict[str, str]
) -> None:
    picture = tmp_path / "photo.png"
    picture.write_bytes(a_picture())
    fields = {"model_name": FAST_MODEL, **fields}
    status, body = await executed(page, "submit", "**/upscale", fields, picture)
    assert status == 202, body


async def test_execute_downloads_the_whole_result(page: Page, api: Api) -> None:
    job_id = await api.completed()
    size = (await api.get(f"/status/{job_id}")).json["file_size_bytes"]
    status, _ = await executed(page, "download", "**/download/*", {"job_id": job_id})
    assert status == 200
    async with page.expect_download() as saved:
        await page.get_by_role("link", name="Download file").click()
    assert (await (await saved.value).path()).stat().st_size == size


async def test_the_list_of_models_is_not_filtered_unless_asked(page: Page, api: Api) -> None:
    everything = (await api.get("/models")).body
    assert await executed(page, "models", "**/models*") == (200, everything)
