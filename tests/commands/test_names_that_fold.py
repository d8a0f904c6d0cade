"""``upscaled upscale`` onto a disk that does not tell upper and lower case apart."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from testkit.command_line import run
from testkit.ntfs_disk import ntfs_disk
from upscaled.batch.folding import Folding, probed, seen


def test_the_second_of_two_pictures_that_would_be_one_file_fails_and_the_first_stays(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, colour in (("A.png", "red"), ("a.png", "blue"), ("b.png", "green")):
        Image.new("RGB", (24, 24), colour).save(source / name)
    with ntfs_disk(tmp_path / "disk") as disk:
        assert probed(disk) == Folding(case=True)
        assert list(disk.iterdir()) == []
        out = disk / "out"
        clash = (
            f"{source}/A.png has the same name but for upper and lower case, which does not count "
            f"on the disk of {out}, so both results would be {out}/a.png; rename one of them."
        )
        for _ in range(2):
            done = run("upscale", source, out, "--scale", "2", env=env)
            assert done.returncode == 1
            assert f"upscaled: {source}/a.png: {clash}" in done.stderr
            assert done.stdout.endswith(f"1 failed.\nFailed:\n{source}/a.png: {clash}\n")
            # This driver shows names in lower case.
            assert sorted(path.name.lower() for path in out.glob("*.png")) == ["a.png", "b.png"]
            with Image.open(out / "A.png") as result:
                red, _, blue = result.convert("RGB").resize((1, 1)).tobytes()
            assert red > blue
        assert seen(out) == seen(out / "new") == Folding(case=True)
        planned = run("upscale", source, out, "--dry-run", "--json", env=env)
        assert planned.returncode == 1
        told = [json.loads(line) for line in planned.stdout.splitlines()]
        (failed,) = [event for event in told if event["event"] == "failed"]
        assert (failed["code"], failed["error"]) == ("name_taken", clash)
