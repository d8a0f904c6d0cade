"""Long names, sentences and buttons stay inside the window, in every state of a row."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from testkit.hurdles import hurdles
from testkit.running import Server, configured
from testkit.web_page import web_page

pytestmark = pytest.mark.asyncio(loop_scope="package")

NAME = "Urlaubsbilder-2026-Donaudampfschifffahrtsgesellschaftskapitänspatent_endgültig_4.png"
SENTENCE = (
    "The picture donaudampfschifffahrtsgesellschaftskapitaenspatent/urlaubsbilder-2026.png "
    "needs 12,345 MiB of memory; choose a smaller scale or set "
    "UPSCALED_UPSCALER_MAX_MEMORY_MB_FOR_PICTURES_OF_THIS_SIZE_ON_THE_SERVER."
)
MODEL = "4x_NMKD-Superscale-SP_178000_G_lite_donaudampfschifffahrtsgesellschaft"
ATTEMPT = {"engine": "builtin", "device": "cpu", "tile_size": 200, "outcome": SENTENCE}
SIZES = {
    "input_size": {"width": 12345, "height": 9876},
    "output_size": {"width": 49380, "height": 39504},
}
STATES: tuple[dict[str, object], ...] = (
    {"status": "queued", "progress": 0, "queue_position": 123456, "eta_seconds": 987654},
    {"status": "queued", "progress": 0},
    {"status": "processing", "progress": 3, "stage": "preparing"},
    {"status": "processing", "progress": 57, "stage": "upscaling", "eta_seconds": 98765,
     "attempt": 3, "attempts": [ATTEMPT, ATTEMPT]},
    {"status": "processing", "progress": 99, "stage": "finishing", "eta_seconds": 0},
    {"status": "completed", "progress": 100, "duration_seconds": 98765.4, "expires": 2e9,
     "file_size_bytes": 987654321},
    {"status": "completed", "progress": 100, "duration_seconds": 1.2, "expires": 2e9},
    {"status": "completed", "progress": 100, "duration_seconds": 5, "result_gone": "downloaded"},
    {"status": "completed", "progress": 100, "duration_seconds": 5, "result_gone": "expired"},
    {"status": "completed", "progress": 100, "duration_seconds": 5, "result_gone": "lost"},
    {"status": "failed", "error": SENTENCE},
    {"status": "cancelled"},
)  # fmt: skip
UPLOADS = ("refused", "paused", "sending", "sending", "waiting")
"""What becomes of five pictures: two are sent at once."""
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return one.checkVisibility() && box.width && !one.closest(".unseen, .skip, svg") &&
    (box.right > innerWidth + 1 || box.left < -1) && !one.closest(".strip");
}).map((one) => one.outerHTML.slice(0, 120))"""
SPILLED = """() => [...document.querySelectorAll(".row, .row button, .queue-tools button")].flatMap(
  (one) => {
    const box = one.getBoundingClientRect();
    return [...one.querySelectorAll("*")].filter((inner) => {
      const at = inner.getBoundingClientRect();
      return inner.checkVisibility() && at.width && (at.top < box.top - 1 ||
        at.bottom > box.bottom + 1 || at.right > box.right + 1 || at.left < box.left - 1);
    }).map((inner) => `${one.className} spills ${inner.outerHTML.slice(0, 120)}`);
  })"""
"""What is larger than the row or the button that it is in."""
SQUEEZED = """() => [...document.querySelectorAll("button, .segments span")].filter((one) => {
  if (!one.checkVisibility() || one.closest(".row") || one.querySelector("img, svg")) return false;
  const range = document.createRange();
  range.selectNodeContents(one);
  const [text, box] = [range.getBoundingClientRect(), one.getBoundingClientRect()];
  return text.width && (text.left < box.left + 2 || text.right > box.right - 2);
}).map((one) => one.outerHTML.slice(0, 120))"""
"""Buttons and choices whose text touches their edge."""
OVERLAPPING = """() => [...document.querySelectorAll(".row")].flatMap((row) => {
  const parts = [...row.children].filter((one) => one.checkVisibility());
  return parts.flatMap((one, at) => parts.slice(at + 1).filter((other) => {
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    return a.left < b.right - 1 && b.left < a.right - 1 &&
      a.top < b.bottom - 1 && b.top < a.bottom - 1;
  }).map((other) => `${row.dataset.state}: ${one.className} over ${other.className}`));
})"""


def root(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


@pytest.fixture(scope="module")
def lonely(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without jobs, so that the page tells of those of this module only."""
    folder = tmp_path_factory.mktemp("lonely")
    shutil.copy(server.data_dir / "models.json", folder)
    running = Server(configured(folder, server.config.models_dir))
    running.start()
    yield running
    running.stop()


def jobs() -> list[dict[str, object]]:
    """Return a job in each state as the server tells of it."""
    now = time.time()
    return [
        {
            "job_id": str(10**18 + number),
            "filename": NAME,
            "model_name": MODEL,
            "scale": 4,
            "created": now - number,
            **SIZES,
            **state,
        }
        for number, state in enumerate(STATES)
    ]


@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
async def test_the_viewer_and_the_preview_fit_a_phone(
    browser: Browser, server: Server, photo: Path, language: str
) -> None:
    async with web_page(
        browser, root(server), width=320, height=780, language=language, touch=True
    ) as web:
        await web.open()
        await web.send(photo)
        row = web.row("coffee.png", "completed").first
        await row.wait_for()
        await row.locator(".act-compare").click()
        await expect(web.page.locator("canvas.board")).to_have_attribute("aria-busy", "false")
        assert await web.page.evaluate(SQUEEZED) == []
        assert await web.page.evaluate(OUTSIDE) == []
        await web.shot(f"viewer-{language}-320")
        await web.page.keyboard.press("Escape")
        await web.choose(photo)
        await web.page.locator("#preview").click()
        await expect(web.page.locator(".preview-card")).to_have_count(4)
        assert await web.page.evaluate(SQUEEZED) == []
        assert await web.page.evaluate(OUTSIDE) == []
        await web.shot(f"preview-{language}-320")


@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
@pytest.mark.parametrize("width", [320, 360, 768, 1440])
async def test_long_names_sentences_and_buttons_stay_inside(
    browser: Browser, lonely: Server, photo: Path, tmp_path: Path, width: int, language: str
) -> None:
    told = jobs()
    turns, sending = iter(UPLOADS), asyncio.Event()

    async def listed(route: Route) -> None:
        await route.fulfill(json={"jobs": told})

    async def one(route: Route) -> None:
        wanted = route.request.url.rpartition("/")[2]
        await route.fulfill(json=next(job for job in told if job["job_id"] == wanted))

    async def taken(route: Route) -> None:
        state = next(turns)
        answer = {"success": False, "error": SENTENCE, "code": "bad_request"}
        if state == "refused":
            await route.fulfill(status=422, json=answer)
        elif state == "paused":
            await sending.wait()  # a pause keeps the next picture from being sent
            headers = {"Retry-After": "98765"}
            await route.fulfill(status=503, headers=headers, json={**answer, "code": "queue_full"})
        else:  # it is not answered, and so remains on its way
            sending.set()

    pictures = []
    for number in range(len(UPLOADS)):
        pictures.append(tmp_path / f"{number}-{NAME}")
        pictures[-1].write_bytes(photo.read_bytes())
    async with web_page(
        browser, root(lonely), width=width, height=900, language=language, touch=width < 500
    ) as web:
        await web.page.route("**/api/v1/jobs?*", listed)
        await web.page.route("**/api/v1/status/*", one)
        await web.page.route("**/api/v1/upscale", taken)
        await web.open()
        await web.choose(*pictures)
        await web.shot(f"long-chosen-{language}-{width}", full=True)
        assert await web.page.evaluate(OUTSIDE) == []
        await web.page.locator("#send").click()
        for state in ("refused", "paused", "sending", "waiting"):
            await expect(web.page.locator(f'[data-state="{state}"]').first).to_be_attached()
        rows = len(STATES) + len(UPLOADS)
        # Long enough for all rows, of which only those in view exist.
        await web.page.set_viewport_size({"width": width, "height": 5000})
        await expect(web.page.locator(".row")).to_have_count(rows, timeout=15_000)
        await web.shot(f"long-{language}-{width}", full=True)
        assert await web.page.evaluate("document.documentElement.scrollWidth") <= width
        assert await web.page.evaluate(OUTSIDE) == []
        assert await web.page.evaluate(SPILLED) == []
        assert await web.page.evaluate(OVERLAPPING) == []
        assert await web.page.evaluate(SQUEEZED) == []
        assert await hurdles(web.page) == []
        # The question before a result that nobody has saved is deleted.
        await web.row(NAME, "completed").first.locator(".act-delete").click()
        await web.page.locator("dialog").wait_for()
        await web.shot(f"long-question-{language}-{width}")
        assert await web.page.evaluate(OUTSIDE) == []
