"""The short form of the bench of archives; `python -m bench.archives` is the long one."""

from __future__ import annotations

from pathlib import Path

from testkit.archive_torture import upscaled_book
from testkit.books import a_book

PAGES = 60


async def test_a_server_that_is_killed_makes_the_same_archive_in_the_end(
    tmp_path: Path, models_dir: Path
) -> None:
    book = a_book(PAGES, others=[("ComicInfo.xml", b"<ComicInfo/>" * 100)])
    undisturbed = await upscaled_book(tmp_path / "undisturbed", models_dir, book)
    assert undisturbed.problems == []
    killed = await upscaled_book(tmp_path / "killed", models_dir, book, kills=3, seed=5)
    assert killed.problems == []
    assert killed.kills == 3
    assert killed.sha256 == undisturbed.sha256
