"""Archives through ``upscaled upscale`` and ``upscaled watch``, from outside."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA
from testkit.running import FAST_MODEL, Server, configured
from upscaled.client import Client

PAGES = 24


def picture(number: int, format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((30 + number, 24)).save(file, format_)
    return file.getvalue()


def comic(path: Path, pages: int = PAGES) -> Path:
    """A comic with pages, a file that says what it is, a broken page and an archive in it."""
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("deep.png", picture(1))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"read by ComicBookLover"
        archive.mkdir("seite")
        for number in range(pages):
            info = zipfile.ZipInfo(f"seite/{number:03}.png", (2001, 2, 3, 4, 5, 2 * (number % 30)))
            info.external_attr = 0o640 << 16
            archive.writestr(info, picture(number))
        archive.writestr("seite/bad.png", picture(0)[:40])
        archive.writestr("ComicInfo.xml", "<ComicInfo>ä</ComicInfo>" * 50)
        archive.writestr("extra.zip", inside.getvalue())
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sizes(path: Path) -> dict[str, tuple[int, int]]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            try:
                with Image.open(io.BytesIO(archive.read(name))) as page:
                    found[name] = page.size
            except OSError:
                continue
    return found


def test_a_comic_is_killed_time_and_again_and_has_the_same_bytes_in_the_end(
    env: dict[str, str], tmp_path: Path
) -> None:
    book = comic(tmp_path / "book.cbz")
    plain = run("upscale", book, tmp_path / "plain.cbz", "--scale", "2", env=env)
    assert plain.returncode == 1  # for the broken page
    assert "page 25, seite/bad.png: image decode failed" in plain.stderr
    assert "1 page left as it was" in plain.stdout
    seen: list[int] = []
    command = [sys.executable, "-m", "upscaled", "upscale", "--json", "--scale", "2",
               str(book), str(tmp_path / "out")]  # fmt: skip
    for stop_after in (3, 6):
        count = 0
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "page":
                    seen.append(event["number"])
                    count += 1
                    if count == stop_after:
                        process.send_signal(signal.SIGKILL)
    last = run(*command[3:], env=env)
    told = [json.loads(line) for line in last.stdout.splitlines()]
    seen += [event["number"] for event in told if event["event"] == "page"]
    assert len(seen) == len(set(seen))  # a kill may hide one, none is told twice
    assert seen == sorted(seen)
    assert told[-1]["failed_pages"] == 1
    assert sha(tmp_path / "out/book.cbz") == sha(tmp_path / "plain.cbz")
    (tmp_path / "ordinary").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("ordinary", "out/book.cbz")}
    assert len(modes) == 1
    assert not list((tmp_path / "out/.upscaled/work").glob("unfinished-archives/*"))
    again = run(*command[3:], env=env)
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == {"unchanged": 1}
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(tmp_path / "out/book.cbz") as new:
        assert new.namelist() == old.namelist()
        assert new.comment == old.comment
        for name in ("ComicInfo.xml", "extra.zip", "seite/bad.png"):
            assert new.read(name) == old.read(name)
        for before, after in zip(old.infolist(), new.infolist(), strict=True):
            assert after.date_time == before.date_time
            assert after.external_attr == before.external_attr
    assert sizes(tmp_path / "out/book.cbz") == {
        f"seite/{number:03}.png": (60 + 2 * number, 48) for number in range(PAGES)
    }


def test_pages_that_are_large_enough_stay_as_they_are(env: dict[str, str], tmp_path: Path) -> None:
    book = comic(tmp_path / "book.zip", 6)
    done = run("upscale", "--only-below", "33x33", "--scale", "2", book, tmp_path / "out", env=env)
    assert done.returncode == 1, done.stderr
    assert [size[0] for size in sizes(tmp_path / "out/book.zip").values()] == [
        60, 62, 64, 33, 34, 35,
    ]  # fmt: skip


def test_a_books_documents_keep_their_references_and_get_the_right_types(
    env: dict[str, str], tmp_path: Path
) -> None:
    package = (
        '<package><manifest><item id="a" href="img/a%20b.jpg" media-type="image/jpeg"/>'
        "<item media-type='text/css' href='a.css'/></manifest></package>"
    )
    with zipfile.ZipFile(tmp_path / "book.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("OEBPS/content.opf", package, zipfile.ZIP_DEFLATED)
        archive.writestr("OEBPS/img/a b.jpg", picture(3, "JPEG"))
    done = run(
        "upscale", "--format", "png", "--scale", "2", tmp_path / "book.epub", tmp_path / "o/",
        env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "o/book.epub").read_bytes()[:58]
    assert head[30:58] == b"mimetypeapplication/epub+zip"
    with zipfile.ZipFile(tmp_path / "o/book.epub") as archive:
        assert archive.namelist() == ["mimetype", "OEBPS/content.opf", "OEBPS/img/a b.jpg"]
        written = archive.read("OEBPS/content.opf").decode()
        assert written == package.replace("image/jpeg", "image/png")
        assert archive.read("OEBPS/img/a b.jpg").startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_tar_files_keep_order_modes_and_owners(
    env: dict[str, str], tmp_path: Path, suffix: str
) -> None:
    long = "n" * 120
    source = tmp_path / f"scans{suffix}"
    mode = "w:" + suffix.removeprefix(".tar").removeprefix(".")
    with tarfile.open(source, mode) as archive:  # type: ignore[call-overload]
        for name, content in (("b.bmp", picture(2, "BMP")), (f"{long}/ä.png", picture(3)),
                              ("a.txt", b"text")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode, info.uname = len(content), 12345.5, 0o600, "anna"
            archive.addfile(info, io.BytesIO(content))
    targets = [tmp_path / f"{n}{suffix}" for n in range(2)]
    for target in targets:
        done = run("upscale", source, target, "--scale", "2", env=env)
        assert done.returncode == 0, done.stderr
    assert sha(targets[0]) == sha(targets[1])
    with tarfile.open(targets[0]) as archive:
        assert archive.getnames() == ["b.png", f"{long}/ä.png", "a.txt"]
        facts = {(info.mtime, info.mode, info.uname) for info in archive}
        assert facts == {(12345.5, 0o600, "anna")}
        page = archive.extractfile("b.png")
        assert page
        with Image.open(io.BytesIO(page.read())) as result:
            assert result.size == (64, 48)


def test_a_watched_folder_takes_archives_by_their_pattern(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    comic(tmp_path / "in/good.cbz", 2)
    (tmp_path / "in/bad.cbz").write_text("no comic")
    command = [sys.executable, "-m", "upscaled", "watch", str(tmp_path / "in"),
               str(tmp_path / "out"), "--include", "*.cbz", "--scale", "2", "--settle", "0.2",
               "--interval", "0.1", "--done", "move", "--json"]  # fmt: skip
    ends = set()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] in {"done", "failed"}:
                ends.add((event["event"], Path(event["source"]).name))
                if len(ends) == 2:
                    process.terminate()
    assert ends == {("done", "good.cbz"), ("failed", "bad.cbz")}
    assert "no archive of a known format" in (tmp_path / "in/failed/bad.cbz.txt").read_text()
    assert (tmp_path / "in/done/good.cbz").exists()
    assert len(sizes(tmp_path / "out/good.cbz")) == 2


def test_a_dry_run_counts_pages_and_leaves_nothing(env: dict[str, str], tmp_path: Path) -> None:
    comic(tmp_path / "in.cbz", 12)
    command = ("upscale", tmp_path / "in.cbz", tmp_path / "out.cbz", "--scale", "2", "--dry-run")
    done = run(*command, "--only-below", "39x25", env=env)
    assert done.returncode == 1, "as the real run, since a page can't be upscaled"
    assert f"{tmp_path}/out.cbz: 9 pages to do (30×24 to 60×48 and so on), " in done.stdout
    assert "3 pages large enough, 1 page can't be upscaled\n" in done.stdout
    assert "1 page stays as it is." in done.stdout
    told = [json.loads(line) for line in run(*command, "--json", env=env).stdout.splitlines()]
    (planned,) = (event for event in told if event["event"] == "planned")
    assert (planned["pages"], planned["large_pages"], planned["failed_pages"]) == (12, 0, 1)
    assert planned["seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.cbz"]


def test_what_can_not_be_used_is_told_and_nothing_is_left(
    env: dict[str, str], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../evil.png", picture(0))
    done = run("upscale", tmp_path / "x.zip", tmp_path / "y.zip", env=env)
    assert done.returncode == 1
    assert "named '../evil.png', which leads out of its folder" in done.stderr
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    done = run("upscale", tmp_path / "x.zip", tmp_path / "y.zip", env=env)
    assert "There is no picture in the archive" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"upscaler__default_model": FAST_MODEL}
    running = Server(configured(tmp_path_factory.mktemp("served"), models_dir, **settings))
    running.start()
    yield running
    running.stop()


def test_an_archive_is_the_same_from_here_from_a_server_page_by_page_and_as_a_whole(
    env: dict[str, str], server: Server, tmp_path: Path
) -> None:
    book = comic(tmp_path / "book.cbz", 8)
    url = f"http://127.0.0.1:{server.port}"
    here = run("upscale", book, tmp_path / "here.cbz", "--scale", "2", env=env)
    assert here.returncode == 1, here.stderr  # for the broken page
    there = run("upscale", book, tmp_path / "there.cbz", "--scale", "2", "--server", url, env=env)
    assert there.returncode == 1, there.stderr
    assert "page 9, seite/bad.png: " in there.stderr
    assert "1 page left as it was" in there.stdout
    with Client(url) as client:
        status = client.archives.upscale(
            book, tmp_path / "whole.cbz", {"scale": 2, "on_bad_page": "keep"}
        )
    assert (status.pages_upscaled, status.pages_failed) == (8, 1)
    digests = {sha(tmp_path / f"{how}.cbz") for how in ("here", "there", "whole")}
    assert digests == {status.sha256}
