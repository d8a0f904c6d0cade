"""``upscaled upscale`` where the disk of the results is full, or fills during the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from testkit.command_line import run
from testkit.paths import DATA
from testkit.small_disk import small_disk


def pictures(folder: Path, *widths: int) -> Path:
    folder.mkdir()
    with Image.open(DATA / "coffee.jpg") as photo:
        for width in widths:
            photo.resize((width, width * 2 // 3)).save(folder / f"{width}.png")
    return folder


def test_a_full_disk_ends_each_picture_with_what_to_do_and_the_next_run_makes_them(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = pictures(tmp_path / "in", *range(60, 70))
    with small_disk(tmp_path / "out", 1 << 10) as disk:
        done = run("upscale", source, disk.folder, "--scale", "2", env=env)
        assert done.returncode == 1
        assert "10 pictures: 0 done, 10 failed." in done.stdout
        assert (
            "60.png: The job needs about 1 MiB on its disk and 0 MiB are free; make room on the "
            f"disk of {disk.folder}/.upscaled/work, and run the same command again."
        ) in done.stdout
        disk.resize(200 << 10)
        done = run("upscale", source, disk.folder, "--scale", "2", env=env)
        assert (done.returncode, len(list(disk.folder.glob("*.png")))) == (0, 10), done.stdout


def test_a_disk_that_fills_during_the_run_ends_it_instead_of_letting_it_wait_for_ever(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = pictures(tmp_path / "in", 900)
    with small_disk(tmp_path / "out", 200 << 10) as disk:
        command = ("upscale", "--json", "--scale", "2", str(source), str(disk.folder))
        line = [sys.executable, "-m", "upscaled", *command]
        told = []
        with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for event in map(json.loads, process.stdout):
                told.append(event)
                if event["event"] == "progressed" and not (disk.folder / "filler").exists():
                    disk.fill()
        assert process.returncode == 1, told
        (failed,) = [event for event in told if event["event"] == "failed"]
        assert failed["code"] == "insufficient_storage"
        assert " on its disk" in failed["error"]
        assert f"make room on the disk of {disk.folder}" in failed["error"]
        (disk.folder / "filler").unlink()
        done = run(*command, env=env)
        assert done.returncode == 0, done.stdout
        with Image.open(disk.folder / "900.png") as result:
            assert result.size == (1800, 1200)


def test_a_disk_without_room_for_the_copy_of_a_picture_is_no_fault_of_the_picture(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.effect_noise((1500, 1500), 90).save(tmp_path / "in/noise.png")
    need = -(-(tmp_path / "in/noise.png").stat().st_size >> 20)
    with small_disk(tmp_path / "out", 1 << 10) as disk:
        done = run("upscale", "--json", tmp_path / "in", disk.folder, "--scale", "2", env=env)
        (failed,) = [
            event for event in map(json.loads, done.stdout.splitlines())
            if event["event"] == "failed"
        ]  # fmt: skip
    assert done.returncode == 1
    assert failed["code"] == "insufficient_storage"
    assert failed["error"] == (
        f"The job needs about {need} MiB on its disk, which is full; make room on the disk of "
        f"{disk.folder}/.upscaled/work, and run the same command again."
    )
