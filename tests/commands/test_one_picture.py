"""``upscaled upscale`` with one picture, without a server."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA
from upscaled.commands.upscale import upscale_file
from upscaled.config.sources import load
from upscaled.errors import UpscaledError


def test_one_picture_is_upscaled_without_a_server(env: dict[str, str], tmp_path: Path) -> None:
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((60, 40)).save(tmp_path / "small.png")
    target = tmp_path / "large.webp"
    done = run(
        "upscale", tmp_path / "small.png", target, "--scale", "3", "--model",
        "realesr-animevideov3", env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(target) as result:
        assert (result.format, result.size) == ("WEBP", (180, 120))
    assert "60×40 to 180×120" in done.stdout
    percents = [int(n) for n in re.findall(r"^small\.png: (\d+) %$", done.stderr, re.MULTILINE)]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.webp", "small.png"]


def test_a_picture_whose_model_is_named_needs_no_default_model(
    env: dict[str, str], tmp_path: Path
) -> None:
    missing = {**env, "UPSCALED_UPSCALER_DEFAULT_MODEL": "realesrgan-x4plus"}
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (16, 12), "teal").save(source)
    named = ["--model", "realesr-animevideov3", "--scale", "2"]
    done = run("upscale", source, out, *named, env=missing)
    assert done.returncode == 0, done.stderr
    done = run("upscale", source, f"{tmp_path}/folder/", *named, env=missing)
    assert done.returncode == 0, done.stderr
    for target in (out, f"{tmp_path}/folder/"):
        done = run("upscale", source, target, env=missing)
        assert done.returncode != 0
        told = done.stderr.splitlines()[-1]
        assert told.startswith("upscaled: upscaler.default_model is 'realesrgan-x4plus'; ")
        assert told.endswith(" an installed model: realesr-animevideov3.")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_picture_that_is_given_up_leaves_nothing_at_once(
    env: dict[str, str], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((2400, 1600)).save(tmp_path / "big.png")
    command = [sys.executable, "-m", "upscaled", "upscale", "big.png", "out.png", "--scale", "4"]
    with subprocess.Popen(
        command,
        env=env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == "big.png: 0 %\n"
        process.send_signal(number)
        _, complaint = process.communicate(timeout=10)
    assert process.returncode == status, complaint
    assert [path.name for path in tmp_path.iterdir()] == ["big.png"]


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(
    env: dict[str, str], tmp_path: Path
) -> None:
    def command(target: str) -> list[str]:
        return [sys.executable, "-m", "upscaled", "upscale", "in.png", target, "--scale", "2"]

    def left() -> set[str]:
        return {path.name for path in tmp_path.iterdir()} - {"in.png", "one.png", "two.png"}

    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((300, 200)).save(tmp_path / "in.png")
    begun = functools.partial(
        subprocess.Popen[str], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    with begun(command("one.png")) as killed, begun(command("two.png")) as stopped:
        for process in (killed, stopped):
            assert process.stderr
            assert process.stderr.readline() == "in.png: 0 %\n"
        stopped.send_signal(signal.SIGSTOP)
        try:
            killed.kill()
            killed.wait()
            (tmp_path / f".{'0' * 16}.upscaled-part").touch()  # a result that was being copied
            before = left()
            assert len(before) == 3
            done = run("upscale", "in.png", "one.png", "--scale", "2", env=env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            after = left()
            assert len(after) == 1
            assert after < before
        finally:
            stopped.send_signal(signal.SIGCONT)
        stopped.communicate(timeout=60)
    assert stopped.returncode == 0
    assert left() == set()
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()


async def test_a_result_that_cannot_be_put_in_its_place_is_one_sentence(
    env: dict[str, str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (8, 8), "red").save(source)

    def in_the_way(_percent: int) -> None:
        thread = threading.Thread(target=target.mkdir, kwargs={"exist_ok": True}, daemon=True)
        thread.start()

    config = load(environ=env)
    with pytest.raises(UpscaledError) as told:
        await upscale_file(config, source, target, {"scale": "2"}, in_the_way)
    assert told.value.message == f"{target}: Is a directory."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


@pytest.mark.parametrize(
    ("source", "target", "more", "status", "told"),
    [
        ("none.png", "out.png", [], 2, "There is no file"),
        ("in.png", "in.png", [], 2, "is the picture itself"),
        ("in.png", ".", [], 2, "is a folder"),
        ("in.png", "no/where/out.png", [], 2, "No such file or directory"),
        ("in.png", "x" * 252 + ".png", [], 2, "x.png: File name too long."),
        ("in.png", "out.tiff", [], 2, "png, jpg or webp"),
        ("in.png", "out.png", ["--format", "jpg"], 2, "make them match"),
        ("in.png", "out.png", ["--scale", "5"], 2, "scale"),
        ("in.png", "out.png", ["--model", "nobody"], 2, "nobody"),
        ("text.png", "out.png", [], 1, "upscaled: "),
    ],
)
def test_a_picture_that_cannot_be_upscaled_gets_its_sentence(
    env: dict[str, str],
    tmp_path: Path,
    source: str,
    target: str,
    more: list[str],
    status: int,
    told: str,
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "in.png")
    (tmp_path / "text.png").write_text("no picture at all")
    before = (tmp_path / "in.png").read_bytes()
    done = run("upscale", source, target, *more, env=env, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "in.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "text.png"]
