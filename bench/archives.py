"""Upscale archives through the API: memory, time per page, and the same bytes after kills.

    python -m bench.archives --pages 500 2000 4000 --kills 10 --singles 500

Each archive has a server of its own. The last one is done twice, the second time with kills. The
exit status is 1 when something was lost or the bytes differ.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp

from testkit.archive_torture import FIELDS, Outcome, upscaled_book
from testkit.books import a_book
from testkit.server_process import ServerProcess, server_process
from upscaled.models.install import install

_CLIENTS = 8
"""Single submissions at a time: enough that the server always has the next picture."""
_SIDE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, nargs="+", default=[500, 2000, 4000])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--singles", type=int, default=500, help="single submissions; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="100 pages, two kills")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pages, options.kills, options.singles = [100], 2, 100
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        return asyncio.run(_run(Path(folder), models, options))


async def _run(folder: Path, models: Path, options: argparse.Namespace) -> int:
    problems: list[str] = []
    if options.singles:
        book = a_book(options.singles, side=_SIDE)
        seconds = await _single(folder / "single", models, book)
        each = 1000 * seconds / options.singles
        print(f"{options.singles} single submissions: {seconds:.1f} s, {each:.1f} ms each")
    whole = Outcome()
    for pages in options.pages:
        book = a_book(pages, side=_SIDE)
        whole = await upscaled_book(folder / f"whole{pages}", models, book)
        _show(f"{pages} pages", whole)
        problems += whole.problems
    if options.kills:
        pages = options.pages[-1]
        killed = await upscaled_book(
            folder / "killed",
            models,
            a_book(pages, side=_SIDE),
            kills=options.kills,
            seed=options.seed,
        )
        _show(f"{pages} pages, {killed.kills} kills at {killed.done_at_kills}", killed)
        problems += killed.problems
        if killed.sha256 != whole.sha256:
            problems.append("the archive after kills has other bytes")
    print("\n".join(problems) or "no problems, equal digests")
    return 1 if problems else 0


def _show(what: str, found: Outcome) -> None:
    each = 1000 * found.seconds / max(1, found.pages)
    print(
        f"{what}: {found.seconds:.1f} s, {each:.1f} ms a page; the server's peak "
        f"{found.server_mib:.0f} MiB; most files of jobs at a time {found.most_files}; "
        f"sha256 {found.sha256[:16]}",
        flush=True,
    )


async def _single(folder: Path, models: Path, book: bytes) -> float:
    """Return the seconds that the pages of a book take as jobs: submitted, awaited, downloaded."""
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        pages = iter([(name, archive.read(name)) for name in archive.namelist()])
    async with (
        server_process(folder, models) as server,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as clients,
    ):
        began = time.monotonic()
        tasks = [
            clients.create_task(_client(session, server, pages), name=f"client-{number}")
            for number in range(_CLIENTS)
        ]
        await asyncio.wait(tasks)
        return time.monotonic() - began


async def _client(
    session: aiohttp.ClientSession, server: ServerProcess, pages: Iterator[tuple[str, bytes]]
) -> None:
    for name, content in pages:
        form = aiohttp.FormData(FIELDS)
        form.add_field("image", content, filename=name.rpartition("/")[2])
        async with session.post(server.url + "/upscale", data=form) as answer:
            told = await answer.json()
            assert answer.status == 202, told
        url = f"{server.url}/download/{told['job_id']}?wait=45"
        async with session.get(url) as answer:
            assert answer.status == 200
            await answer.read()


if __name__ == "__main__":
    sys.exit(main())
