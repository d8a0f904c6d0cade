"""The page shows what is true, whatever comes late or twice, and whoever else is there."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, Route, expect

from testkit.job_records import multiply_job
from testkit.relay import Relay, relay
from testkit.running import FAST_MODEL, Api, Server
from testkit.web_page import SLOW_LABEL, WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

HANDLED = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
URLS = """
window.urls = new Set();
const made = URL.createObjectURL, gone = URL.revokeObjectURL;
URL.createObjectURL = (blob) => { const url = made.call(URL, blob); urls.add(url); return url; };
URL.revokeObjectURL = (url) => { urls.delete(url); gone.call(URL, url); };
"""
HOSTILE = '<img src=x onerror="hacked=1">{name}</p><script>hacked=1</script>'


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


@asynccontextmanager
async def on_a_line(browser: Browser, server: Server) -> AsyncIterator[tuple[WebPage, Relay]]:
    """Open the page over a line that can break."""
    async with (
        relay(server.port) as line,
        web_page(browser, f"http://127.0.0.1:{line.port}/") as web,
    ):
        await web.open()
        yield web, line


async def cancelled(web: WebPage, picture: Path) -> None:
    """Send a picture and cancel its job."""
    await web.send(picture, model=SLOW_LABEL, scale=4)
    await web.row(picture.name).first.get_by_role("button", name="Cancel").click()
    await web.row(picture.name, "cancelled").first.wait_for()


async def test_a_late_list_does_not_undo_what_an_event_told(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    async with web_page(browser, root(serve())) as web:
        await web.open()
        await web.send(large_photo, scale=4)
        held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
        await web.page.route("**/jobs?limit=200", lambda route: held.set_result(route), times=1)  # noqa: PLW0108 - no built-in works
        await web.row("large.jpg", "processing").wait_for()
        await web.page.reload()
        route = await held
        answer = await route.fetch()
        assert (await answer.json())["jobs"][0]["status"] == "processing"
        await web.completed("large.jpg")
        async with web.page.expect_response("**/jobs?limit=200"):
            await route.fulfill(response=answer)
        await web.page.evaluate(HANDLED)
        await expect(web.row("large.jpg")).to_have_attribute("data-state", "completed")


async def test_a_late_list_does_not_bring_back_a_deleted_job(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    async with on_a_line(browser, serve()) as (web, line):
        await cancelled(web, large_photo)
        held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
        await web.page.route("**/jobs?limit=200", lambda route: held.set_result(route), times=1)  # noqa: PLW0108 - no built-in works
        line.break_down()
        line.go_on()
        route = await held
        answer = await route.fetch()
        await web.row("large.jpg").get_by_role("button", name="Delete").click()
        await expect(web.page.locator(".row")).to_have_count(0)
        async with web.page.expect_response("**/jobs?limit=200"):
            await route.fulfill(response=answer)
        await web.page.evaluate(HANDLED)
        await expect(web.page.locator(".row")).to_have_count(0)


@pytest.mark.parametrize("button", ["Try again", "Download", "Compare"])
async def test_a_job_that_was_deleted_elsewhere_is_told_and_leaves_the_list(
    browser: Browser, serve: Callable[..., Server], large_photo: Path, photo: Path, button: str
) -> None:
    server = serve(features__job_lists="false")  # where no event tells of deletions
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        if button == "Try again":
            await cancelled(web, large_photo)
        else:
            await web.send(photo)
            await web.page.locator("[data-state=completed]").wait_for()
        row = web.page.locator(".row")
        await api.call("DELETE", f"/jobs/{await row.get_attribute('data-key')}")
        await row.get_by_role("button", name=button).click()
        await expect(web.page.locator(".toast")).to_contain_text("There is no job")
        await expect(row).to_have_count(0)


async def test_two_clicks_make_one_job_and_one_dialog(
    browser: Browser, serve: Callable[..., Server], large_photo: Path, photo: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        await cancelled(web, large_photo)
        await web.row("large.jpg").get_by_role("button", name="Try again").dblclick()
        await expect(web.row("large.jpg")).to_have_count(2)
        await web.page.locator("[data-state=processing], [data-state=queued]").first.wait_for()
        for job in (await api.get("/jobs")).json["jobs"][:-1]:
            await api.post(f"/cancel/{job['job_id']}")
        assert len((await api.get("/jobs")).json["jobs"]) == 2
        await web.send(photo)
        row = web.row("coffee.png", "completed")
        await row.wait_for()
        await row.locator(".act-compare").evaluate("(one) => { one.click(); one.click(); }")
        await web.page.locator("canvas.board").wait_for()
        await web.page.evaluate(HANDLED)
        await expect(web.page.locator("dialog")).to_have_count(1)


async def test_many_jobs_that_came_while_the_line_was_broken_are_all_listed(
    browser: Browser, serve: Callable[..., Server]
) -> None:
    server = serve()
    async with Api(server) as api:
        await api.completed(filename="many.png")
    async with on_a_line(browser, server) as (web, line):
        await web.row("many.png").first.wait_for()
        line.break_down()
        multiply_job(server.data_dir, 450, later=1)
        line.go_on()
        await web.page.locator(".row").nth(1).wait_for()
        for _ in range(2):  # two more pages
            async with web.page.expect_response("**/jobs?limit=200&cursor=*"):
                await web.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
            await web.page.evaluate(HANDLED)
        await expect(web.page.locator("#rows")).to_have_css("height", f"{451 * 84}px")


async def test_a_list_that_fails_once_is_read_again(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve()
    refusal = {"error": "Too busy.", "code": "rate_limited"}
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await api.completed(filename="there.png")
        for path in ("limits", "models", "jobs?limit=200"):

            async def refuse(route: Route) -> None:
                await route.fulfill(status=429, headers={"Retry-After": "1"}, json=refusal)

            await web.page.route(f"**/{path}", refuse, times=1)
        await web.open()
        await web.row("there.png", "completed").wait_for()


async def test_an_estimate_that_failed_once_is_asked_for_again(web: WebPage, photo: Path) -> None:
    refusal = {"error": "Too many estimates.", "code": "rate_limited"}

    async def refuse(route: Route) -> None:
        await route.fulfill(status=429, headers={"Retry-After": "1"}, json=refusal)

    await web.page.route("**/estimate", refuse, times=1)
    await web.page.set_input_files("#files", [photo])
    await expect(web.page.locator("#estimate")).to_have_text("Too many estimates.")
    await expect(web.page.locator("#estimate")).to_contain_text("300 × 200 →")


async def test_a_login_page_of_the_network_is_no_answer(web: WebPage, photo: Path) -> None:
    async def portal(route: Route) -> None:
        await route.fulfill(status=200, content_type="text/html", body="<html>Log in</html>")

    await web.page.route("**/upscale", portal, times=1)
    await web.send(photo)
    await expect(web.row("coffee.png", "paused").first).to_contain_text("The connection was lost.")
    await web.row("coffee.png", "completed").first.wait_for()


@pytest.mark.parametrize("change", ["changed", "deleted"])
async def test_a_file_that_changed_after_it_was_chosen_is_not_tried_for_ever(
    web: WebPage, photo: Path, change: str
) -> None:
    await web.choose(photo)
    if change == "changed":
        os.utime(photo, (1e9, 1e9))
    else:
        photo.unlink()
    await web.page.locator("#send").click()
    row = web.row("coffee.png", "refused").first
    await expect(row).to_contain_text("“coffee.png” has changed or is gone since you chose it.")
    await row.get_by_role("button", name="Remove").click()


async def test_nothing_that_others_write_is_run(
    browser: Browser, server: Server, photo: Path, tmp_path: Path
) -> None:
    attempt = {"engine": HOSTILE, "device": HOSTILE, "tile_size": 32, "outcome": HOSTILE}
    jobs: list[dict[str, object]] = [
        {
            "job_id": str(10**18 + number), "status": status, "created": number, "progress": 5,
            "filename": HOSTILE, "model_name": HOSTILE, "error": HOSTILE, "attempts": [attempt],
            "stage": HOSTILE, "result_gone": HOSTILE if status == "completed" else None,
        }
        for number, status in enumerate(("failed", "completed", "processing", "queued"))
    ]  # fmt: skip

    async def hostile(route: Route) -> None:
        told = await (await route.fetch()).json()
        for model in told["models"]:
            model |= {"description": HOSTILE, "license": HOSTILE}
        await route.fulfill(json=told)

    async with web_page(browser, root(server)) as web:
        page = web.page
        await page.add_init_script("window.hacked = 0")
        await page.route("**/jobs?limit=200", lambda route: route.fulfill(json={"jobs": jobs}))
        await page.route("**/models", hostile)
        await page.route(
            "**/estimate", lambda route: route.fulfill(status=422, json={"error": HOSTILE})
        )
        await page.route(
            "**/upscale", lambda route: route.fulfill(status=422, json={"error": HOSTILE})
        )
        await web.open()
        file = tmp_path / '<img src=x onerror="hacked=1">{name}.png'
        file.write_bytes(photo.read_bytes())
        (wrong := tmp_path / "<svg onload=hacked=1>.txt").write_text("no picture")
        await page.set_input_files("#files", [file, wrong])
        await expect(page.locator("#estimate")).to_have_text(HOSTILE)
        await expect(page.locator("#refused")).to_contain_text("“<svg onload=hacked=1>.txt”")
        await page.locator("#send").click()
        await expect(page.locator(".row")).to_have_count(5)
        for state in ("refused", "failed"):
            await page.locator(f"[data-state={state}] .act-details").first.click()
            await expect(page.locator("dialog")).to_contain_text('onerror="hacked=1">')
            await page.keyboard.press("Escape")
        assert await page.evaluate("hacked") == 0
        assert await page.locator("[onerror], [onload], script:not([src])").count() == 0


async def test_no_object_urls_are_left_when_all_jobs_are_deleted(
    browser: Browser, serve: Callable[..., Server], photo: Path, tmp_path: Path
) -> None:
    """Also of a picture that the browser cannot read, and of one that is deleted elsewhere."""
    server = serve()
    unreadable = tmp_path / "scan.tif"
    with Image.open(photo) as picture:
        picture.save(unreadable)
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.page.add_init_script(URLS)
        await web.open()
        await web.send(photo, unreadable)
        for name in ("coffee.png", "scan.tif"):
            await web.row(name, "completed").wait_for()
            await expect(web.row(name).locator("img")).to_be_visible()
        for job in (await api.get("/jobs")).json["jobs"]:
            await api.call("DELETE", f"/jobs/{job['job_id']}")
        for name in ("coffee.png", "scan.tif"):
            await expect(web.row(name)).to_have_count(0)
        await web.page.evaluate("new Promise((done) => setTimeout(done, 1100))")
        left = await web.page.evaluate("[...urls]")
        assert left == [], json.dumps(left)


async def test_cards_and_comparison_say_what_the_server_estimates_as_soon_as_a_job_has_ended(
    browser: Browser, server: Server, photo: Path
) -> None:
    shortest = [6]  # below 20, where the page does not round
    names: list[str] = []

    async def with_seconds(route: Route) -> None:
        answer = await route.fetch()
        told = await answer.json()
        names[:] = [time["model_name"] for time in told["models"]]
        for place, time in enumerate(told["models"]):
            time["seconds"] = shortest[0] + 3 * place
            if time["model_name"] == told["model_name"]:
                told["seconds"] = time["seconds"]
        await route.fulfill(response=answer, json=told)

    async def agreed(selector: str) -> None:
        for place, name in enumerate(names):
            named = web.page.get_by_text(name, exact=True)
            shown = web.page.locator(selector).filter(has=named)
            await expect(shown).to_contain_text(f" {shortest[0] + 3 * place} secs")

    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.page.route("**/estimate", with_seconds)
        await web.open()
        await web.choose(photo, scale=4)
        estimate = web.page.locator("#estimate")
        await expect(estimate).to_contain_text("secs")
        assert len(names) > 1
        await agreed(".model")
        await expect(estimate).to_contain_text(f" {shortest[0] + 3 * names.index(FAST_MODEL)} secs")
        await web.page.locator("#preview").click()
        await agreed(".preview-card")
        for shortest[0] in (7, 5):  # the second while the first has just been heard of
            await api.completed()
            await agreed(".preview-card")
            await agreed(".model")
