"""``upscaled upscale`` on folders, from outside: trees, bad files, kills, pipes, servers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA
from testkit.running import FAST_MODEL, Server, configured
from upscaled.batch.ledger import Ledger

KINDS = ("png", "jpg", "webp", "bmp", "tif")
BAD = "The file is not a picture of a known format"


def fill(folder: Path, count: int, side: int = 40) -> None:
    """Write ``count`` different pictures into three levels of folders, and a bad one."""
    with Image.open(DATA / "coffee.jpg") as photo:
        for number in range(count):
            place = folder / ("", "a", "a/b")[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            small = photo.resize((side + number, side))
            small.save(place / f"p{number:02}.{KINDS[number % len(KINDS)]}", compress_level=1)
    (folder / "a/bad.png").write_text("no picture")
    (folder / "a/notes.txt").write_text("not taken")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dozen small pictures and a bad one."""
    folder = tmp_path_factory.mktemp("tree")
    fill(folder, 36)
    return folder


@pytest.fixture(scope="session")
def made(tree: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tree, made in one run."""
    out = tmp_path_factory.mktemp("made") / "out"
    done = run("upscale", "-r", tree, out, "--scale", "2", env=env)
    assert done.returncode == 1, done.stderr
    assert "37 pictures: 36 done, 1 failed." in done.stdout
    return out


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each result, by its path below ``out``."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and ".upscaled" not in path.parts
    }


def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_tree_is_mirrored_and_the_bad_file_is_told(tree: Path, made: Path) -> None:
    with Image.open(made / "a/b/p02.webp") as result:
        assert (result.format, result.size) == ("WEBP", (84, 80))
    with Image.open(made / "a/p04.png") as result:  # of a TIFF
        assert (result.format, result.size) == ("PNG", (88, 80))
    assert len(digests(made)) == 36
    assert not (made / "a/bad.png").exists()


def test_the_same_command_again_does_only_what_changed(
    tree: Path, made: Path, env: dict[str, str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("p*.*")}
    again = run("upscale", "-r", tree, made, "--scale", "2", env=env)
    assert again.returncode == 1
    assert "37 pictures: 0 done, 36 unchanged, 1 failed." in again.stdout
    assert f"upscaled: {tree}/a/bad.png: {BAD}" in again.stderr
    assert f"Failed:\n{tree}/a/bad.png: {BAD}" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in made.rglob("p*.*")} == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interruptible")
def test_a_run_that_is_ended_in_the_middle_is_gone_on_with(
    tree: Path, made: Path, env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "upscaled", "upscale", "--json", "-r", str(tree), str(out),
               "--scale", "2"]  # fmt: skip
    done: list[str] = []
    for stop_after in (5, 9):
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            count = 0
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "done":
                    done.append(event["target"])
                    count += 1
                    if count == stop_after:
                        process.send_signal(number)
        expected = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
        assert process.returncode == expected[number]
    last = run("upscale", "--json", "-r", tree, out, "--scale", "2", env=env)
    assert last.returncode == 1
    told = events(last.stdout)
    done += [str(event["target"]) for event in told if event["event"] == "done"]
    # A kill between a result and its event hides one; none is made twice.
    assert len(done) == len(set(done))
    assert told[-1]["failed"] == 1
    assert digests(out) == digests(made)
    assert not list(out.rglob("*part"))
    assert not any((out / ".upscaled/work/jobs").iterdir())


def test_a_run_whose_reader_goes_away_ends_without_a_word_and_can_be_gone_on_with(
    tree: Path, made: Path, env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "upscaled", "upscale", "--json", "-r", str(tree), str(out),
               "--scale", "2"]  # fmt: skip
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["event"] == "begun"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, "")
    assert run("upscale", "-r", tree, out, "--scale", "2", env=env).returncode == 1
    assert digests(out) == digests(made)


@pytest.mark.parametrize("most_attempts", ["1", "3"])
def test_a_picture_in_whose_middle_the_run_was_killed_is_no_bad_one(
    env: dict[str, str], tmp_path: Path, most_attempts: str
) -> None:
    env = {**env, "UPSCALED_UPSCALER_MAX_ATTEMPTS": most_attempts}
    (tmp_path / "in").mkdir()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((640, 420)).save(tmp_path / "in/large.png")
    command = [sys.executable, "-m", "upscaled", "upscale", "--json", "--scale", "2",
               str(tmp_path / "in"), str(tmp_path / "out")]  # fmt: skip
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progressed" and event["percent"] >= 10:
                process.kill()
                break
    assert process.returncode == -9
    done = run(*command[3:], env=env)
    assert done.returncode == 0, done.stdout
    plain = run(*command[3:-1], tmp_path / "plain", env=env)
    assert plain.returncode == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")


@pytest.fixture(scope="session")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    settings = {"server__auth_token": "secret", "upscaler__default_model": FAST_MODEL}
    running = Server(configured(folder, models_dir, **settings))
    running.start()
    yield running
    running.stop()


def test_a_server_makes_the_same(
    tree: Path, made: Path, env: dict[str, str], server: Server, tmp_path: Path
) -> None:
    out, url = tmp_path / "out", f"http://127.0.0.1:{server.port}"
    arguments = ("upscale", "-r", tree, out, "--scale", "2", "--server", url)
    refused = run(*arguments, env=env)
    assert refused.returncode == 1
    assert "token" in refused.stderr
    done = run(*arguments, env={**env, "UPSCALED_TOKEN": "secret"})
    assert done.returncode == 1, done.stderr
    assert "37 pictures: 36 done, 1 failed." in done.stdout
    assert f"{out}/p00.png: 40×40 to 80×80 on cpu" in done.stdout
    assert digests(out) == digests(made)
    local = run("upscale", "-r", tree, out, "--scale", "2", env=env)
    assert "36 unchanged" in local.stdout
    one = run(
        "upscale", tree / "p00.png", tmp_path / "one.png", "--scale", "2", "--server", url,
        "--token", "secret", env=env,
    )  # fmt: skip
    assert one.stdout == f"{tmp_path}/one.png: 40×40 to 80×80 on cpu\n"
    assert (tmp_path / "one.png").read_bytes() == (made / "p00.png").read_bytes()
    wrong = run(
        "upscale", tree / "p00.png", tmp_path / "two.png", "--scale", "9", "--server", url,
        "--token", "secret", env=env,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "The field scale is '9'" in wrong.stderr


def test_a_dry_run_tells_what_and_how_long_and_leaves_nothing(
    tree: Path, env: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("upscale", "-r", tree, out, "--scale", "2", "--only-below", "50x50", "--dry-run",
               env=env)  # fmt: skip
    assert done.returncode == 1
    assert "37 pictures: 10 to do, about" in done.stdout or "less than a second" in done.stdout
    assert "26 large enough, 1 failed." in done.stdout
    assert f"{out}/p00.png: 40×40 to 80×80, " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_changes_nothing_of_earlier_results_and_waits_for_no_other_run(
    tree: Path, made: Path, env: dict[str, str], tmp_path: Path
) -> None:
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in made.rglob("*")}

    before = state()
    running = Ledger(made)
    done = run("upscale", "-r", tree, made, "--scale", "2", "--dry-run", env=env)
    running.close()
    assert "37 pictures: 0 done, 36 unchanged, 1 failed." in done.stdout, done.stderr
    assert state() == before
    deep = tmp_path / "some/where/out"
    assert run("upscale", tree / "p00.png", f"{deep}/", "--dry-run", env=env).returncode == 0
    one = tmp_path / "out.png"
    assert run("upscale", tree / "p00.png", one, "--dry-run", env=env).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_name_does_no_harm_to_the_output(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"\xff \x1b[31m\n gone.png")
    (tmp_path / "in" / name).symlink_to("nowhere")  # so that a sentence names it
    for encoding in ("utf-8", "ascii"):
        done = run("upscale", tmp_path / "in", tmp_path / "out",
                   env={**env, "PYTHONIOENCODING": encoding})  # fmt: skip
        assert done.returncode == 1
        shown = f"{tmp_path}/in/? ?[31m? gone.png: No such file or directory."
        assert done.stderr == f"upscaled: {shown}\n"
        assert done.stdout == f"1 picture: 0 done, 1 failed.\nFailed:\n{shown}\n"
        told = run("upscale", "--json", tmp_path / "in", tmp_path / "out",
                   env={**env, "PYTHONIOENCODING": encoding})  # fmt: skip
        failed = events(told.stdout)[-2]
        assert (failed["code"], failed["source"]) == ("unreadable", f"{tmp_path}/in/{name}")
    (tmp_path / "in/größe.png").write_bytes((DATA / "astronaut.png").read_bytes())
    asked = ("upscale", tmp_path / "in/größe.png", f"{tmp_path}/out/", "--dry-run")
    plain = run(*asked, env={**env, "PYTHONIOENCODING": "ascii"})
    assert plain.stdout.startswith(f"{tmp_path}/out/gr??e.png: 512?512 to ")
    told = run(*asked, "--json", env={**env, "PYTHONIOENCODING": "ascii"})
    assert str(events(told.stdout)[1]["target"]).endswith("größe.png")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_without_room_ends_the_run_with_a_sentence(
    env: dict[str, str], tree: Path, tmp_path: Path
) -> None:
    for options in ([], ["--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "upscaled", "upscale", str(tree), str(tmp_path), *options],
                env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "upscaled: The output can't be written: No space left on device.\n"


def test_results_beside_their_pictures_are_not_upscaled_again(
    env: dict[str, str], tmp_path: Path
) -> None:
    fill(tmp_path, 4)
    for expected in ("5 pictures: 4 done, 1 failed.", "4 unchanged, 4 results themselves"):
        done = run("upscale", "-r", tmp_path, tmp_path, "--suffix", "_2x", "--scale", "2", env=env)
        assert expected in done.stdout
    refused = run("upscale", tmp_path, tmp_path, env=env)
    assert refused.returncode == 2
    assert "name another one for the results, or a --suffix" in refused.stderr


def test_every_field_of_the_api_is_an_option(env: dict[str, str], tmp_path: Path) -> None:
    fill(tmp_path / "in", 3)
    done = run(
        "upscale", tmp_path / "in/p00.png", tmp_path / "in/a/p01.jpg", tmp_path / "out", "--width",
        "160", "--no-keep-metadata", "--quality", "30", "--tta", "--background", "#000000",
        "--tile-size", "64", "--client-ref", "mine", env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out/p01.jpg") as result:
        assert result.width == 160
    for wrong in (["--scale", "9"], ["--model", "nobody"], ["--quality", "0"]):
        refused = run("upscale", tmp_path / "in", tmp_path / "out", *wrong, env=env)
        assert refused.returncode == 2, refused.stdout
        assert refused.stderr.count("\n") == 1


def test_one_file_has_events_too(env: dict[str, str], tree: Path, tmp_path: Path) -> None:
    done = run("upscale", tree / "p00.png", tmp_path / "out.png", "--scale", "2", "--json", env=env)
    assert done.returncode == 0, done.stderr
    told = events(done.stdout)
    kinds = [event["event"] for event in told]
    assert kinds[:2] == ["begun", "started"]
    assert kinds[-2:] == ["done", "summary"]
    assert told[-2]["output_size"] == {"width": 80, "height": 80}
    skipped = run("upscale", tree / "p00.png", tmp_path / "out.png", "--skip-existing", env=env)
    assert skipped.stdout == "1 picture: 0 done, 1 with a result already.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_pictures_go_through_pipes(
    env: dict[str, str], tree: Path, made: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "upscaled", "upscale", "-", "-", "--scale", "2"]
    done = subprocess.run(
        command, input=(tree / "p00.png").read_bytes(), env=env, capture_output=True, check=True
    )
    assert done.stdout == (made / "p00.png").read_bytes()
    to_file = subprocess.run(
        [*command[:-3], str(tmp_path / "out.webp"), "--scale", "2"],
        input=(tree / "p00.png").read_bytes(), env=env, capture_output=True, check=True,
    )  # fmt: skip
    assert b"out.webp: 40" in to_file.stdout
    bad = subprocess.run(command, input=b"no picture", env=env, capture_output=True, check=False)
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert BAD.encode() in bad.stderr
    for options in (["--json"], ["--skip-existing"], ["--dry-run"], ["--only-below", "1MP"]):
        refused = run("upscale", "-", tmp_path / "two.webp", *options, env=env)
        assert refused.returncode == 2
        assert f"{options[0]}" in refused.stderr
    two = subprocess.run([*command[:5], str(tree), "-"], env=env, capture_output=True, check=False)
    assert two.returncode == 2


def test_two_runs_into_one_folder_exclude_each_other(
    env: dict[str, str], tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "upscaled", "upscale", "-r", str(tree), str(out)]
    with subprocess.Popen([*command, "--json"], env=env, stdout=subprocess.PIPE) as first:
        assert first.stdout
        first.stdout.readline()
        second = run(*command[3:], env=env)
        first.terminate()
    assert second.returncode == 2
    assert f"Another upscaled process works on {out}" in second.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_shows_bars_and_then_the_summary(
    env: dict[str, str], tree: Path, tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    command = [
        sys.executable,
        "-m",
        "upscaled",
        "upscale",
        str(tree),
        str(tmp_path),
        "--scale",
        "2",
    ]
    with subprocess.Popen(
        command, env={**env, "TERM": "xterm", "COLUMNS": "100"}, stdout=subprocess.PIPE,
        stderr=theirs, text=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # the other end is closed
            pass
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    text = shown.decode("utf-8", "replace")
    assert "All" in text
    assert "12/12" in text
    assert out.splitlines()[-1] == "12 pictures: 12 done."


def test_the_commands_own_start_is_quick(env: dict[str, str]) -> None:
    began = time.process_time(), os.times().children_user
    for _ in range(3):
        assert run("upscale", "--help", env=env).returncode == 0
    assert (os.times().children_user - began[1]) / 3 < 1.0
    loaded = subprocess.run(
        [sys.executable, "-c",
         "import sys; from upscaled.commands.main import _parser; _parser(); print(*sys.modules)"],
        env=env, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "aiohttp", "rich", "PIL", "sqlite3"} & set(loaded)
