"""How much memory a large upload adds to the server.

    python -m bench.upload [--megabytes 500] [--quick]

Sends an uncompressed picture (BMP) with more pixels than the server accepts: the server writes it
to the disk, inspects it, and refuses it after its last byte. The kernel records the largest
resident size of the server process; the bench resets that record before.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time
from pathlib import Path

import aiohttp

from bench.client import FAST, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import MIB, MemoryWatch, forget_peak, memory, peak
from testkit.server_process import ServerError, ServerProcess, server_process

ADDED_MIB = 32e6 / MIB
_WIDTH = 13_000
_HEADERS = 54


def sparse_bmp(path: Path, megabytes: int) -> Path:
    """Write a black picture of ``megabytes`` (millions of bytes) as a sparse file."""
    height = megabytes * 1_000_000 // (3 * _WIDTH)
    size = _HEADERS + 3 * _WIDTH * height
    with path.open("wb") as file:
        file.write(struct.pack("<2sIHHI", b"BM", size, 0, 0, _HEADERS))
        file.write(struct.pack("<IiiHHIIiiII", 40, _WIDTH, height, 1, 24, 0, 0, 0, 0, 0, 0))
        file.truncate(size)
    return path


async def send(server: ServerProcess, picture: Path) -> tuple[float, str]:
    """Upload ``picture``; return the seconds and the error answer.

    Raises:
        ServerError: the status is not 422.
    """
    form = aiohttp.FormData({"model_name": FAST, "scale": "2"})
    timeout = aiohttp.ClientTimeout(total=None)
    with picture.open("rb") as file:
        form.add_field("image", file, filename="large.bmp", content_type="image/bmp")
        began = time.perf_counter()
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(server.url + "/upscale", data=form) as answer,
        ):
            text = await answer.text()
            if answer.status != 422:
                raise ServerError(f"upload: {answer.status} {text}")
            return time.perf_counter() - began, text


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Upload the picture and fill ``report``."""
    picture = sparse_bmp(setup.folder / "large.bmp", options.megabytes)
    settings = setup.settings | {
        "server.max_request_size_mb": options.megabytes + 10,
        "limits.max_input_megapixels": 10,
    }
    async with server_process(setup.folder / "server", setup.models, settings) as server:
        async with connect(server) as client:  # load what every first request loads
            await client.whole(photos.png(photos.crop(1, 64)), {"model_name": FAST, "scale": "2"})
        family_before = memory(server.pid)
        forget_peak(server.pid)
        before = peak(server.pid)
        with MemoryWatch(server.pid, interval=0.05) as watch:
            seconds, text = await send(server, picture)
        added = peak(server.pid) - before
    what = f"upload of {options.megabytes} MB"
    report.add(f"{what}: added to the server process's memory", added / MIB, "MiB",
               target=ADDED_MIB, sense="under")  # fmt: skip
    report.add(f"{what}: added to server and descendants",
               (watch.peak.shared_once - family_before.shared_once) / MIB, "MiB",
               note="shared pages counted once")  # fmt: skip
    report.add(f"{what}: rate", options.megabytes / seconds, "MB per second")
    report.details = {"seconds": seconds, "answer": text, "server_mib": before / MIB}


def main() -> None:
    parser = make_parser("upload", __doc__, device=False)
    parser.add_argument("--megabytes", type=int)
    options = parser.parse_args()
    options.megabytes = options.megabytes or (100 if options.quick else 500)
    report = Report("upload", options.quick or options.megabytes < 500)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
