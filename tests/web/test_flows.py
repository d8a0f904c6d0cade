"""Whole flows on the page, in a real browser with the real server and real networks."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, Locator, Route, expect

from testkit.paths import DATA
from testkit.running import Api, Server
from testkit.server_process import server_process
from testkit.web_page import SLOW_LABEL, WebPage, web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

PROGRESS = """(least) => new Promise((done) => {
  const look = () => {
    const values = [...document.querySelectorAll(".row progress")].map((bar) => bar.value);
    const found = values.find((value) => value >= least && value < 100);
    if (found) done(found);
    else requestAnimationFrame(look);
  };
  look();
})"""
"""Waits until a bar has moved; `wait_for_function` would need eval, which the page forbids."""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def seen(locator: Locator) -> None:
    await locator.first.wait_for()


async def test_the_estimate_of_a_slow_model_names_a_quick_one(
    web: WebPage, large_photo: Path
) -> None:
    await web.choose(large_photo, model=SLOW_LABEL, scale=4)
    estimate = web.page.locator("#estimate")
    await expect(estimate).to_contain_text("1200 × 800 → 4800 × 3200")
    await expect(estimate).to_contain_text("realesr-animevideov3 takes")
    await web.choose(large_photo, scale=4)
    await expect(estimate).not_to_contain_text("realesr-animevideov3 takes")


async def test_two_pictures_go_in_progress_moves_and_the_results_are_saved(
    web: WebPage, large_photo: Path, photo: Path, tmp_path: Path
) -> None:
    await web.choose(large_photo, photo)
    await expect(web.page.locator("#estimate")).to_contain_text("1200 × 800 → 2400 × 1600")
    await expect(web.page.locator("#models label").first).to_contain_text("about")
    await web.shot("chosen")
    await web.page.locator("#send").click()
    await web.page.evaluate(PROGRESS, 1)
    await web.shot("running")
    await web.completed("coffee.png")
    await web.completed("large.jpg")
    for name in ("coffee.png", "large.jpg"):  # a placeholder would show through transparent ones
        row = web.row(name, "completed").first
        await expect(row.locator(".thumb img")).to_be_visible()
        await expect(row.locator(".thumb svg")).to_be_hidden()
        await expect(row.locator(".row-name")).to_have_attribute("title", name)
    await web.shot("done")
    await expect(web.row("coffee.png").first).to_contain_text("kept until")
    async with web.page.expect_download() as saving:
        await (
            web.row("coffee.png", "completed").first.get_by_role("button", name="Download").click()
        )
    saved = await saving.value
    assert saved.suggested_filename == "coffee_2x.png"
    await saved.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as picture:
        assert picture.size == (600, 400)
    await seen(web.row("coffee.png", "gone"))


async def test_a_job_is_cancelled_and_forgotten(web: WebPage, large_photo: Path) -> None:
    await web.send(large_photo, model=SLOW_LABEL, scale=4)
    row = web.row("large.jpg").first
    await row.get_by_role("button", name="Cancel").click()
    await expect(row).to_have_attribute("data-state", "cancelled")
    count = await web.page.locator(".row").count()
    await row.get_by_role("button", name="Delete").click()
    await expect(web.page.locator(".row")).to_have_count(count - 1)


async def test_a_reload_in_the_middle_changes_nothing(
    browser: Browser, serve: Callable[..., Server], large_photo: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as web:
        await web.open()
        await web.send(large_photo, model=SLOW_LABEL, scale=4)
        await web.page.evaluate(PROGRESS, 1)
        await web.page.reload()
        await web.ready()
        row = web.row("large.jpg", "processing")
        await seen(row)
        await expect(row).to_contain_text("left")
        assert await web.page.evaluate(PROGRESS, 1) >= 1
        await row.get_by_role("button", name="Cancel").click()
        await seen(web.row("large.jpg", "cancelled"))


async def test_a_server_that_is_killed_and_started_again_loses_nothing(
    browser: Browser, tmp_path: Path, models_dir: Path, large_photo: Path, photo: Path
) -> None:
    async with server_process(tmp_path / "server", models_dir) as server:
        async with web_page(browser, f"http://127.0.0.1:{server.port}/") as web:
            await web.open()
            await web.send(large_photo)
            await web.page.evaluate(PROGRESS, 1)
            await server.end(signal.SIGKILL)
            await seen(web.page.locator("#notices", has_text="does not answer"))
            await web.shot("server-gone")
            await web.send(photo)
            await seen(web.row("coffee.png", "paused"))
            await server.start()
            await server.wait_until_ready()  # on a busy machine it takes longer than a step may
            await web.completed("large.jpg")
            await web.completed("coffee.png")
            await expect(web.page.locator("#notices .notice")).to_have_count(0)
        assert len(server.jobs()) == 2


async def test_wrong_files_are_refused_with_a_sentence(web: WebPage, tmp_path: Path) -> None:
    notes, broken = tmp_path / "notes.txt", tmp_path / "broken.png"
    notes.write_text("no picture")
    broken.write_bytes((DATA / "astronaut.png").read_bytes()[:5000])
    await web.page.set_input_files("#files", [notes])
    await expect(web.page.locator("#refused")).to_contain_text("“notes.txt” is not a picture")
    await expect(web.page.locator("#send")).to_be_disabled()
    await web.send(broken)
    row = web.row("broken.png", "refused")
    await expect(row).to_contain_text("cut off before its end")
    await expect(web.page.locator("#queue-hint")).not_to_contain_text("in progress")
    await web.shot("refused")
    await row.get_by_role("button", name="Remove").click()
    await expect(web.row("broken.png")).to_have_count(0)


async def test_a_token_is_asked_for_and_never_stands_in_an_address(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve(server__auth_token="a right token")
    async with web_page(browser, root(server)) as web:
        await web.page.goto(web.url)
        field = web.page.get_by_label("Token", exact=True)
        await field.fill("a wrong token")
        await web.shot("token")
        await web.page.keyboard.press("Enter")
        await expect(web.page.get_by_role("alert")).to_have_text("The token is not the right one.")
        await field.fill("a right token")
        await web.page.keyboard.press("Enter")
        await web.ready()
        await web.send(photo)
        await web.completed("coffee.png")
        async with web.page.expect_download() as saving:
            await web.row("coffee.png").get_by_role("button", name="Download").click()
        assert (await saving.value).suggested_filename == "coffee_2x.png"
        await seen(web.row("coffee.png", "gone"))
        assert not [
            address for address in web.addresses if "token" in address.lower().split("/assets/")[0]
        ]
        assert "right" not in "".join(web.addresses)
        await web.page.reload()
        await web.ready()
        await seen(web.row("coffee.png", "gone"))
        stored = await web.page.evaluate("JSON.stringify(localStorage)")
        assert "right token" not in stored


async def test_a_full_queue_delays_a_picture_and_says_so(
    browser: Browser, serve: Callable[..., Server], large_photo: Path, photo: Path
) -> None:
    server = serve(limits__max_queue_size="1", limits__max_concurrent_jobs="1")
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        picture, slow = large_photo.read_bytes(), []
        for scale in ("3", "4"):  # another scale is another work, which does not join the first
            slow.append(await api.accepted(picture, model_name="realesrgan-x4plus", scale=scale))
            await seen(web.page.locator("[data-state=processing]"))
        await web.send(photo)
        row = web.row("coffee.png", "paused")
        await expect(row).to_contain_text("queue is full")
        await expect(row).to_contain_text("Next try in")
        await web.shot("full-queue")
        async with web.page.expect_response("**/upscale") as again:
            await row.get_by_role("button", name="Send again").click()
        assert (await again.value).status == 503  # there is no place yet
        await seen(row)
        for job_id in slow:
            await api.post(f"/cancel/{job_id}")
        await web.completed("coffee.png")  # without a click: a job's end makes room


async def test_a_picture_sent_offline_arrives_once_when_the_network_is_back(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve()
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await web.open()
        await web.page.context.set_offline(True)
        await web.send(photo)
        await seen(web.row("coffee.png", "paused"))
        await web.page.context.set_offline(False)
        await web.completed("coffee.png")
        assert len((await api.get("/jobs")).json["jobs"]) == 1


async def test_jobs_that_others_send_and_delete_show_at_once(web: WebPage, server: Server) -> None:
    async with Api(server) as api:
        job_id = await api.completed(filename="elsewhere.png")
        await web.completed("elsewhere.png")
        await api.call("DELETE", f"/jobs/{job_id}")
        await expect(web.row("elsewhere.png")).to_have_count(0)


async def test_without_job_lists_the_page_knows_what_this_browser_sent(
    browser: Browser, serve: Callable[..., Server], photo: Path
) -> None:
    server = serve(features__job_lists="false")
    async with web_page(browser, root(server)) as web, Api(server) as api:
        await api.completed(filename="foreign.png")
        await web.open()
        await web.send(photo)
        await web.completed("coffee.png")
        await web.page.reload()
        await web.ready()
        await web.completed("coffee.png")
        await expect(web.row("foreign.png")).to_have_count(0)


async def test_choices_are_remembered_and_the_language_too(web: WebPage) -> None:
    await web.page.locator("#models label", has_text="anime illustrations").click()
    await web.page.locator("#scales label", has_text="Exact").click()
    await web.page.locator("#width").fill("1234")
    await web.page.select_option("#format", "webp")
    await web.page.select_option("#language", "de")
    await expect(web.page.locator("#send")).to_have_text("Vergrößern")
    await web.page.reload()
    await web.ready()
    assert await web.page.evaluate("document.documentElement.lang") == "de"
    await expect(web.page.locator("#options-title")).to_have_text("Vergrößern mit")
    await expect(web.page.locator("#width")).to_have_value("1234")
    await expect(web.page.locator("#format")).to_have_value("webp")
    await expect(web.page.locator("input[value=realesrgan-x4plus-anime]")).to_be_checked()
    await web.shot("german")


async def test_another_pictures_estimate_does_not_stay_while_the_server_is_asked(
    web: WebPage, large_photo: Path, photo: Path
) -> None:
    await web.choose(large_photo)
    estimate = web.page.locator("#estimate")
    await expect(estimate).to_contain_text("1200 × 800 → 2400 × 1600")
    held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()

    def hold(route: Route) -> None:
        held.set_result(route)

    await web.page.route("**/estimate", hold, times=1)
    await web.page.set_input_files("#files", [photo])
    await web.page.locator("#strip .strip-pick").nth(1).click()
    route = await held
    await expect(estimate).to_have_text("The server is estimating how long this picture takes.")
    await route.continue_()
    await expect(estimate).to_contain_text(re.compile("300 × 200 → 600 × 400 · (about|perhaps)"))
