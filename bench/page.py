"""What the page at ``/`` costs until it is drawn, and with thousands of jobs in its list.

    python -m bench.page [--jobs 2000] [--quick]

Chromium loads the page with an empty cache, from this machine and over a throttled connection
(1.6 Mbit/s, 150 ms, Lighthouse's slow 4G), then again with a full cache. Bytes are those on the
wire, headers included. The list is filled with records of cancelled jobs, and scrolled from one
end to the other in steps of one and a half windows.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from dataclasses import dataclass

from playwright.async_api import Browser, Page

from bench.client import FAST, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.browser import chromium
from testkit.job_records import multiply_job
from testkit.server_process import server_process

_SLOW = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 200_000,
    "uploadThroughput": 94_000,
}
"""1.6 Mbit/s down and 750 kbit/s up, in bytes a second."""
_PAINT = """() => new Promise((done) => {
  const found = performance.getEntriesByName("first-contentful-paint")[0];
  if (found) return done(found.startTime);
  new PerformanceObserver((list) => {
    const one = list.getEntriesByName("first-contentful-paint")[0];
    if (one) done(one.startTime);
  }).observe({ type: "paint", buffered: true });
})"""
_READY = "() => performance.now()"
_SCROLL = """async () => {
  const times = [];
  for (let at = 0; at < document.documentElement.scrollHeight; at += innerHeight * 1.5) {
    const before = performance.now();
    scrollTo(0, at);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - before);
  }
  return times;
}"""


@dataclass(frozen=True)
class Load:
    """One load of the page."""

    requests: int
    received: float
    """Bytes on the wire."""
    painted: float
    """Milliseconds until the first content was drawn."""
    usable: float
    """Milliseconds until the page could be used."""


async def load(page: Page, url: str) -> Load:
    """Load the page and wait until it can be used."""
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    sizes: dict[str, float] = {}
    session.on(
        "Network.loadingFinished",
        lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}),
    )
    await page.goto(url)
    await page.locator("html.ready #models label").first.wait_for()
    usable = await page.evaluate(_READY)
    return Load(len(sizes), sum(sizes.values()), await page.evaluate(_PAINT), usable)


async def measured(browser: Browser, url: str, *, slow: bool) -> tuple[Load, Load]:
    """Return a load with an empty cache and the next one."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = await context.new_page()
        if slow:
            session = await context.new_cdp_session(page)
            await session.send("Network.enable")
            await session.send("Network.emulateNetworkConditions", _SLOW)
        return await load(page, url), await load(page, url)
    finally:
        await context.close()


async def scroll(browser: Browser, url: str, jobs: int) -> tuple[list[float], int, float]:
    """Scroll through the list; return milliseconds a step, rows that exist, bytes of JavaScript."""
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    await page.goto(url)
    await page.locator(".row").first.wait_for()
    height = 0
    while height < jobs * 84:
        await page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        await page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))"
        )
        height = await page.evaluate("document.querySelector('#rows').offsetHeight")
    times = await page.evaluate(_SCROLL)
    rows = await page.locator(".row").count()
    memory = await page.evaluate("performance.memory.usedJSHeapSize")
    await page.close()
    return times, rows, memory


async def bench(options: argparse.Namespace, setup: BenchSetup, report: Report) -> None:
    """Measure the page of one server."""
    async with server_process(setup.folder / "server", setup.models, setup.settings) as server:
        url = f"http://127.0.0.1:{server.port}/"
        async with chromium() as browser:
            await measured(browser, url, slow=False)  # the browser's own start
            rounds = 1 if options.quick else 5
            loads = [await measured(browser, url, slow=False) for _ in range(rounds)]
            cold, warm = loads[0]
            report.add("first load", cold.received / 1000, "kB", target=100, sense="under")
            report.add("first load, requests", cold.requests)
            report.add("next load", warm.received / 1000, "kB")
            for name, pick in (("first content drawn", "painted"), ("usable", "usable")):
                times = [getattr(first, pick) for first, _ in loads]
                report.add(f"{name}, this machine", statistics.median(times), "ms")
            slow, again = await measured(browser, url, slow=True)
            report.add(
                "first content drawn, slow 4G",
                slow.painted,
                "ms",
                target=1800,
                note="Lighthouse calls that good",
            )
            report.add("usable, slow 4G", slow.usable, "ms")
            report.add("first content drawn, slow 4G, next load", again.painted, "ms")
            async with connect(server) as client:
                await client.whole(
                    photos.png(photos.photo(64, 48)), {"model_name": FAST, "scale": "2"}
                )
            jobs = 200 if options.quick else options.jobs
            await asyncio.to_thread(multiply_job, server.data_dir, jobs)
            times, rows, memory = await scroll(browser, url, jobs)
            report.add(
                f"{jobs} jobs: a step of scrolling", statistics.median(times), "ms", target=50
            )
            report.add(f"{jobs} jobs: slowest step", max(times), "ms")
            report.add(f"{jobs} jobs: rows in the page", rows, target=60)
            report.add(f"{jobs} jobs: memory of JavaScript", memory / 1e6, "MB")


def main() -> None:
    """Run the bench."""
    parser = make_parser("page", __doc__, device=False)
    parser.add_argument("--jobs", type=int, default=2000)
    options = parser.parse_args()
    report = Report("page", quick=options.quick)
    with bench_setup(options) as setup:
        asyncio.run(bench(options, setup, report))
    report.finish()


if __name__ == "__main__":
    main()
