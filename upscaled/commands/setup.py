"""Downloads the official native program: ``upscaled setup --binary``."""

from __future__ import annotations

import asyncio
import platform
import shutil
import zipfile
from pathlib import Path

from upscaled import files
from upscaled.commands.download import SetupError, downloaded

URL = (
    "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.5.0/"
    "realesrgan-ncnn-vulkan-20220424-ubuntu.zip"
)
SHA256 = "e5aa6eb131234b87c0c51f82b89390f5e3e642b7b70f2b9bbe95b6a285a40c96"
"""Of that file; other packages of it pin the same value."""
PROGRAM = "realesrgan-ncnn-vulkan"

_MAX_ZIP_BYTES = 200 << 20
_MAX_MEMBER_BYTES = 100 << 20


async def fetch(bin_dir: Path, *, url: str = URL, sha256: str = SHA256) -> Path:
    """Download the official release, check it, and put its program into ``bin_dir``.

    Only after the SHA-256 of the whole file was verified are the program and its licence unpacked,
    and an earlier version is replaced.

    Returns:
        The program's path.

    Raises:
        SetupError: there is no program for this machine, or the download failed.
    """
    machine = platform.machine()
    if machine != "x86_64":
        raise SetupError(
            f"The official program exists for x86-64 only, and this machine is {machine}; "
            "use the builtin engine (upscaler.engine: builtin), which needs no program."
        )
    async with downloaded(
        url, bin_dir, sha256=sha256, most=_MAX_ZIP_BYTES, advice=_advice(bin_dir, url)
    ) as archive:
        return await asyncio.to_thread(_unpack, archive, bin_dir)


def _advice(bin_dir: Path, url: str) -> str:
    return (
        f"Either download {url} in another way and put the file {PROGRAM} in it into "
        f"{bin_dir} (then: chmod +x {bin_dir / PROGRAM}), or use the builtin engine "
        "(upscaler.engine: builtin), which needs no program."
    )


def _unpack(archive: Path, bin_dir: Path) -> Path:
    try:
        with zipfile.ZipFile(archive) as content:
            members = {
                Path(info.filename).name: info
                for info in content.infolist()
                if not info.is_dir() and info.file_size <= _MAX_MEMBER_BYTES
            }
            if PROGRAM not in members:
                raise SetupError(f"The downloaded file holds no {PROGRAM}; nothing was installed.")
            if "LICENSE" in members:
                _install(content, members["LICENSE"], bin_dir / f"{PROGRAM}.LICENSE", 0o644)
            return _install(content, members[PROGRAM], bin_dir / PROGRAM, 0o755)
    except (zipfile.BadZipFile, EOFError) as error:
        raise SetupError(f"The downloaded file is not a complete zip file: {error}.") from None


def _install(
    content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, permissions: int
) -> Path:
    """Write ``member`` to ``target``, whole or not at all."""
    with (
        content.open(member) as source,
        files.replacing(target, durable=True, mode=permissions) as file,
    ):
        shutil.copyfileobj(source, file)
    return target
