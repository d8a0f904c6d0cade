"""The native program: finds it, identifies it, and builds its command line."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from upscaled.errors import EngineError
from upscaled.files import sha256_of
from upscaled.workers import processes
from upscaled.workers.environment import plain_env

_PROBE_SECONDS = 30
_USAGE_LIMIT = 1 << 16
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""``e_machine`` of an ELF header, as ``uname -m`` names it (elf.h)."""
_PACKAGES = {"libvulkan.so.1": "libvulkan1", "libgomp.so.1": "libgomp1"}


class Flavour(StrEnum):
    """Which program it is. They have a common origin, but different meanings of flags."""

    OFFICIAL = "realesrgan-ncnn-vulkan"
    UPSCAYL = "upscayl-bin"


@dataclass(frozen=True)
class ProgramInfo:
    """A native program that was started successfully."""

    path: Path
    flavour: Flavour
    sha256: str


def find_program(config_path: str, bin_dir: Path) -> Path | None:
    """Return the native program to use, or None if there is none.

    Args:
        config_path: the setting ``upscaler.binary_path``: a path or a name in PATH. If it is
            not empty, only it is searched, and a path is returned even if no file is there
            (so that `probe` can say so).
        bin_dir: searched before PATH, when the setting is empty.
    """
    if config_path:
        on_path = shutil.which(config_path) if "/" not in config_path else None
        return Path(on_path or config_path).expanduser().absolute()
    for flavour in Flavour:
        if (bin_dir / flavour).is_file():
            return (bin_dir / flavour).absolute()
    for flavour in Flavour:
        if found := shutil.which(flavour):
            return Path(found).absolute()
    return None


async def probe(program: Path, *, env: Mapping[str, str] | None = None) -> ProgramInfo:
    """Start ``program`` (an absolute path) to print its usage text, and identify it.

    Raises:
        EngineError: it is not there, not a program, for another kind of processor, misses
            libraries, or is neither of the programs in `Flavour`. Never retryable.
    """
    complaint, digest = await asyncio.to_thread(_look_at, program)
    if complaint:
        raise EngineError(complaint, retryable=False)
    said, status = await _usage(program, plain_env() if env is None else env)
    if missing := re.search(r"error while loading shared libraries: ([^:\s]+)", said):
        library = missing[1]
        package = _PACKAGES.get(library)
        advice = (
            "type: apt-get install libvulkan1 libgomp1"
            if package
            else "install the package that brings it"
        )
        raise EngineError(
            f"{program} needs {library}, which is missing; {advice}.", retryable=False
        )
    if "upscayl" in said.lower():
        return ProgramInfo(program, Flavour.UPSCAYL, digest)
    if "realesrgan-ncnn-vulkan" in said or (
        "-n model-name" in said and "-z model-scale" not in said
    ):
        return ProgramInfo(program, Flavour.OFFICIAL, digest)
    last = said.strip().splitlines()[-1][:200] if said.strip() else f"exit status {status}"
    raise EngineError(
        f"{program} is neither {' nor '.join(Flavour)}: asked for its usage, it said: {last}",
        retryable=False,
    )


def _look_at(program: Path) -> tuple[str, str]:
    """Return why it can't be started, as a sentence (empty if it can), and its SHA-256."""
    if not program.is_file():
        return f"There is no program at {program}.", ""
    if not os.access(program, os.X_OK):
        return f"{program} is not executable; type: chmod +x {program}", ""
    try:
        with program.open("rb") as file:
            head = file.read(20)
        digest = sha256_of(program)
    except OSError as error:
        return f"{program} can't be read: {error.strerror}.", ""
    if head.startswith(b"\x7fELF") and len(head) == 20:
        made_for = int.from_bytes(head[18:20], "little")
        name, here = _MACHINES.get(made_for, f"processor type {made_for}"), platform.machine()
        if name != here:
            return f"{program} is made for {name}, and this machine is {here}.", ""
    return "", digest


async def _usage(program: Path, env: Mapping[str, str]) -> tuple[str, int]:
    try:
        async with (
            asyncio.timeout(_PROBE_SECONDS),
            processes.running([program, "-h"], env=env, stdout=True) as child,
        ):
            said = bytearray()

            async def read(stream: asyncio.StreamReader) -> None:
                while chunk := await stream.read(4096):
                    said.extend(chunk[: _USAGE_LIMIT - len(said)])

            async with asyncio.TaskGroup() as readers:
                readers.create_task(read(child.stdout), name="usage-stdout")
                readers.create_task(read(child.stderr), name="usage-stderr")
            return said.decode("utf-8", "replace"), await child.wait()
    except TimeoutError:
        raise EngineError(
            f"{program} did not answer within {_PROBE_SECONDS} seconds when asked for its usage.",
            retryable=False,
        ) from None
    except OSError as error:
        raise EngineError(f"{program} can't be run: {error.strerror}.", retryable=False) from None


def command_line(
    info: ProgramInfo,
    *,
    source: str,
    target: str,
    model: str,
    native_scale: int,
    tile_size: int,
    gpu: int | None,
    tta: bool,
) -> list[str | Path]:
    """Return the arguments that enlarge ``source`` by the model's own scale into ``target``.

    All paths are relative to the folder in which the program is started. ``models`` in it holds the
    network: both programs require that word and copy the path into 256 bytes without a check.
    """
    # official: -s is the network's scale, unchecked. upscayl-bin: -z is (unless the network's name
    # holds x1 to x16), and -s would resize the result again.
    scale = "-z" if info.flavour is Flavour.UPSCAYL else "-s"
    arguments: list[str | Path] = [info.path, "-i", source, "-o", target]
    arguments += ["-m", "models", "-n", model, scale, str(native_scale)]
    arguments += ["-t", str(tile_size), "-j", "1:1:1", "-f", "png"]
    if gpu is not None:  # without it, the program takes the best device; "auto" would be read as 0
        arguments += ["-g", str(gpu)]
    if tta:
        arguments.append("-x")
    return arguments
