"""``upscaled watch``, from outside: files that come while it runs, is killed and starts again."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA

QUICK = ("--scale", "2", "--settle", "0.2", "--interval", "0.1")
BAD = "The file is not a picture of a known format"


class Watch:
    """A running command; its events are read as they come."""

    def __init__(self, env: dict[str, str], inbox: Path, out: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "upscaled", "watch", str(inbox), str(out), *QUICK, "--json",
             *arguments],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seen: list[dict[str, Any]] = []

    def outcomes(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many further ends of pictures and return them."""
        found: list[dict[str, Any]] = []
        assert self._process.stdout
        while len(found) < count:
            line = self._process.stdout.readline()
            assert line, self._process.stderr and self._process.stderr.read()
            event = json.loads(line)
            if event["event"] in {"done", "failed", "skipped"}:
                found.append(event)
        self.seen += found
        return found

    def ended(self) -> tuple[int, str]:
        """Wait until it ends by itself; return its exit status and its standard error."""
        _, said = self._process.communicate(timeout=60)
        return self._process.returncode, said

    def end(self, number: signal.Signals) -> int:
        """End it; return its exit status. Outcomes that it still told are in `seen`."""
        self._process.send_signal(number)
        out, _ = self._process.communicate(timeout=60)
        for line in out.splitlines():
            if line.endswith("}") and json.loads(line)["event"] in {"done", "failed", "skipped"}:
                self.seen.append(json.loads(line))
        return self._process.returncode


@pytest.fixture
def pictures() -> Iterator[list[bytes]]:
    """Three dozen small pictures."""
    yield [_picture(number) for number in range(36)]


def _picture(number: int) -> bytes:
    import io

    file = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((30 + number, 30)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_each_picture_is_done_once_however_often_it_is_killed(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    seen: list[dict[str, Any]] = []
    dropped = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None):
        for content in pictures[dropped : dropped + (9 if number else 36)]:
            (inbox / f"p{dropped:02}.png").write_bytes(content)
            dropped += 1
        left = len([*inbox.glob("*.png")])
        watch = Watch(env, inbox, out, "--done", "move")
        if number is None:
            watch.outcomes(left)
            watch.end(signal.SIGTERM)
        else:
            watch.outcomes(4)
            for content in pictures[dropped : dropped + 3]:  # while it works
                (inbox / f"p{dropped:02}.png").write_bytes(content)
                dropped += 1
            watch.outcomes(2)
            assert watch.end(number) == (143 if number is signal.SIGTERM else -9)
        seen += watch.seen
    made = [event["source"] for event in seen if event["event"] == "done"]
    assert len(made) == len(set(made))
    assert not [event for event in seen if event["event"] == "failed"]
    assert sorted(digests(inbox / "done")) == [f"p{number:02}.png" for number in range(36)]
    assert list(inbox.glob("*.png")) == []
    plain = tmp_path / "plain"
    done = run("upscale", inbox / "done", plain, "--scale", "2", env=env)
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(plain)


def test_what_fails_lies_in_its_own_folder_with_the_sentence_beside(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    (inbox / "deep").mkdir(parents=True)
    watch = Watch(env, inbox, out, "-r", "--done", "delete")
    (inbox / "deep/bad.png").write_text("no picture")
    (inbox / "good.png").write_bytes(pictures[0])
    assert {event["event"] for event in watch.outcomes(2)} == {"done", "failed"}
    (inbox / "deep/bad.png").write_text("no picture again")
    assert [event["event"] for event in watch.outcomes(1)] == ["failed"]
    assert watch.end(signal.SIGTERM) == 143
    failed = sorted(path.name for path in (inbox / "failed/deep").iterdir())
    assert len(failed) == 4  # two pictures and their sentences
    assert (inbox / "failed/deep/bad.png.txt").read_text().startswith(BAD)
    assert [path.name for path in inbox.iterdir() if path.is_file()] == []
    assert (out / "good.png").exists()


def test_kept_pictures_are_left_alone_until_they_change(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(pictures[0])
    (inbox / "b.png").write_bytes(pictures[1])
    watch = Watch(env, inbox, out)
    watch.outcomes(2)
    (inbox / "a.png").rename(inbox / "c.png")  # the same content: made for its new name
    assert watch.outcomes(1)[0]["target"] == str(out / "c.png")
    watch.end(signal.SIGTERM)
    again = Watch(env, inbox, out)
    assert [(one["event"], one["reason"]) for one in again.outcomes(2)] == [
        ("skipped", "unchanged")
    ] * 2
    (inbox / "b.png").write_bytes(pictures[2])
    (done,) = again.outcomes(1)
    assert (done["event"], done["input_size"]["width"]) == ("done", 32)
    again.end(signal.SIGTERM)


def test_a_picture_is_not_taken_while_it_is_written(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    content = pictures[30]
    watch = Watch(env, inbox, out)
    with (inbox / "slow.png").open("wb") as file:
        file.write(content[:300])
        file.flush()
        (inbox / "quick.png").write_bytes(pictures[0])
        assert watch.outcomes(1)[0]["source"].endswith("quick.png")
        (inbox / "next.png").write_bytes(pictures[1])
        assert watch.outcomes(1)[0]["source"].endswith("next.png")
        file.write(content[300:])
    (done,) = watch.outcomes(1)
    assert (done["event"], done["input_size"]["width"]) == ("done", 60)
    watch.end(signal.SIGTERM)


def test_results_of_earlier_pictures_stay_where_the_pictures_go(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    watch = Watch(env, inbox, out, "--done", "delete")
    for number in range(3):
        (inbox / "scan.png").write_bytes(pictures[number])
        watch.outcomes(1)
    watch.end(signal.SIGTERM)
    sizes = {}
    for path in out.glob("*.png"):
        with Image.open(path) as result:
            sizes[path.name] = result.width
    assert sizes == {"scan.png": 60, "scan-2.png": 62, "scan-3.png": 64}


def test_a_server_that_is_gone_is_no_fault_of_the_pictures(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(pictures[0])
    command = [sys.executable, "-m", "upscaled", "watch", str(inbox), str(tmp_path / "out"),
               "--server", "http://127.0.0.1:9"]  # fmt: skip
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        process.terminate()
    assert process.returncode == 143
    assert [path.name for path in inbox.iterdir()] == ["a.png"]


def test_it_ends_when_its_results_folder_is_deleted_and_starts_anew(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    watch = Watch(env, inbox, out, "--done", "move")
    (inbox / "a.png").write_bytes(pictures[0])
    watch.outcomes(1)
    shutil.rmtree(out)
    (inbox / "b.png").write_bytes(pictures[1])
    status, said = watch.ended()
    assert status == 1
    assert said == (
        f"upscaled: {out}/.upscaled was deleted or replaced while the command used it; start the "
        "command again.\n"
    )
    assert [path.name for path in inbox.iterdir() if path.is_file()] == ["b.png"]
    again = Watch(env, inbox, out, "--done", "move")
    assert [event["event"] for event in again.outcomes(1)] == ["done"]
    again.end(signal.SIGTERM)
    assert sorted(digests(out)) == ["b.png"]


def test_it_ends_when_its_events_reach_nobody(
    env: dict[str, str], pictures: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(pictures[0])
    command = [sys.executable, "-m", "upscaled", "watch", str(tmp_path / "in"),
               str(tmp_path / "out"), "--json", *QUICK]  # fmt: skip
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.close()
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "upscaled: The output can't be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none", "out"), "There is no folder none."),
        ((".", "out", "--settle", "0"), "--settle is 0.0; it must be between 0.05 and 86400 s."),
        ((".", "out", "--scale", "9"), "The field scale is '9'"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("watch", *arguments, env=env)
    assert done.returncode == 2
    assert sentence in done.stderr
