"""Completion: the shells themselves complete command lines by the scripts."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.command_line import run


@pytest.fixture
def script(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The completion script of the shell that the test is about."""
    shell = str(request.param)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = run("completion", shell)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "_upscaled"
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("upscaled u", {"upscale"}),
        ("upscaled upscale --sc", {"--scale"}),
        ("upscaled upscale --format ", {"png", "jpg", "webp"}),
        ("upscaled models im", {"import"}),
        ("upscaled models import --act", {"--activation"}),
        ("upscaled serve --engine b", {"binary", "builtin"}),
        ("upscaled upscale some_f", {"some_file.png"}),
    ],
)
def test_bash_offers_commands_options_values_and_files(
    script: Path, typed: str, offered: set[str]
) -> None:
    (script.parent / "some_file.png").touch()
    words = " ".join(f'"{word}"' for word in typed.split(" "))
    count = len(typed.split(" ")) - 1
    done = subprocess.run(
        ["bash", "-c", f"source {script}; COMP_WORDS=({words}) COMP_CWORD={count}; "
         'eval "$(complete -p upscaled | sed "s/.*-F \\([^ ]*\\).*/\\1/")"; '
         'printf "%s\n" "${COMPREPLY[@]}"'],
        cwd=script.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) >= offered
    assert done.stderr == ""


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_offers_commands_options_and_values(script: Path) -> None:
    def complete(typed: str) -> list[str]:
        done = subprocess.run(
            ["fish", "-c", f"source {script}; complete -C '{typed}'"],
            env={**os.environ, "HOME": str(script.parent)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert complete("upscaled u") == ["upscale"]
    assert complete("upscaled upscale --sc") == ["--scale"]
    assert sorted(complete("upscaled upscale --format ")) == ["jpg", "png", "webp"]
    assert complete("upscaled models im") == ["import"]


@pytest.fixture
def zsh(tmp_path: Path) -> Iterator[int]:
    """An interactive zsh with the completion loaded: its end of a terminal."""
    ours, theirs = os.openpty()
    environment = {"TERM": "dumb", "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        start_new_session=True,
    ) as shell:  # fmt: skip
        os.close(theirs)
        yield ours
        os.close(ours)
        shell.kill()


def until(terminal: int, wanted: str) -> None:
    """Read from the terminal until it shows ``wanted``."""
    shown = ""
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"{wanted!r} does not come: {shown!r}"
        shown += os.read(terminal, 65536).decode("utf-8", "replace")


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_completes_commands_options_and_values(script: Path, zsh: int) -> None:
    load = f"fpath=({script.parent} $fpath); autoload -U compinit; compinit -u -D; echo lo''aded\n"
    os.write(zsh, load.encode())
    until(zsh, "loaded")
    for typed, shown in (
        ("upscaled upscale --ti\t", "--tile-size "),
        ("\x15upscaled models im\t", "models import "),
        ("\x15upscaled upscale --format w\t", "--format webp "),
    ):
        os.write(zsh, typed.encode())
        until(zsh, shown)


def test_another_shell_is_refused() -> None:
    assert run("completion", "csh").returncode == 2
