"""What a large upload adds to the server's memory.

    python -m bench.upload [--megabytes 500] [--quick]

Sends an uncompressed picture (BMP) with more pixels than the server takes: it is written to the
disk, looked at, and refused when its last byte has come. The kernel keeps the largest resident
size of the server process; it is made to forget it before.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time
from pathlib import Path

import aiohttp

from bench import photos
from bench.client import FAST, connect
from bench.report import Report
from bench.workplace import Workplace, make_parser, workplace
from testkit.memory import MIB, MemoryWatch, forget_peak, memory, peak
from testkit.server_process import ServerError, ServerProcess, server_process

ADDED_MIB = 32e6 / MIB
_WIDTH = 13_000
_HEADERS = 54


def sparse_bmp(path: Path, megabytes: int) -> Path:
    """Write a black picture of ``megabytes`` (millions of bytes), which takes no room here."""
    height = megabytes * 1_000_000 // (3 * _WIDTH)
    size = _HEADERS + 3 * _WIDTH * height
    with path.open("wb") as file:
        file.write(struct.pack("<2sIHHI", b"BM", size, 0, 0, _HEADERS))
        file.write(struct.pack("<IiiHHIIiiII", 40, _WIDTH, height, 1, 24, 0, 0, 0, 0, 0, 0))
        file.truncate(size)
    return path


async def send(server: ServerProcess, picture: Path) -> tuple[float, str]:
    """Upload ``picture``; return the seconds and the refusal.

    Raises:
        ServerError: it was not refused for what it is.
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
            told = await answer.text()
            if answer.status != 422:
                raise ServerError(f"upload: {answer.status} {told}")
            return time.perf_counter() - began, told


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    picture = sparse_bmp(place.folder / "large.bmp", options.megabytes)
    settings = place.settings | {
        "server.max_request_size_mb": options.megabytes + 10,
        "limits.max_input_megapixels": 10,
    }
    async with server_process(place.folder / "server", place.models, settings) as server:
        async with connect(server) as client:  # what a first request loads is no upload's
            await client.whole(photos.png(photos.crop(1, 64)), {"model_name": FAST, "scale": "2"})
        family_before = memory(server.pid)
        forget_peak(server.pid)
        before = peak(server.pid)
        with MemoryWatch(server.pid, interval=0.05) as watch:
            seconds, told = await send(server, picture)
        added = peak(server.pid) - before
    what = f"upload of {options.megabytes} MB"
    report.add(f"{what}: added to the server process's memory", added / MIB, "MiB",
               target=ADDED_MIB, sense="under")  # fmt: skip
    report.add(f"{what}: added to server and descendants",
               (watch.peak.shared_once - family_before.shared_once) / MIB, "MiB",
               note="shared pages counted once")  # fmt: skip
    report.add(f"{what}: rate", options.megabytes / seconds, "MB a second")
    report.details = {"seconds": seconds, "answer": told, "server_mib": before / MIB}


def main() -> None:
    parser = make_parser("upload", __doc__, device=False)
    parser.add_argument("--megabytes", type=int)
    options = parser.parse_args()
    options.megabytes = options.megabytes or (100 if options.quick else 500)
    report = Report("upload", options.quick or options.megabytes < 500)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
