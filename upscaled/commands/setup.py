"""Downloads the official native program: ``upscaled setup --binary``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import platform
import secrets
import shutil
import zipfile
from pathlib import Path

import aiohttp

from upscaled import files
from upscaled.errors import UpscaledError

URL = (
    "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.2.5.0/"
    "realesrgan-ncnn-vulkan-20220424-ubuntu.zip"
)
SHA256 = "e5aa6eb131234b87c0c51f82b89390f5e3e642b7b70f2b9bbe95b6a285a40c96"
"""Of that file; other packages of it pin the same value."""
PROGRAM = "realesrgan-ncnn-vulkan"

_CHUNK_BYTES = 1 << 18
_MAX_ZIP_BYTES = 200 << 20
_MAX_MEMBER_BYTES = 100 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)


class SetupError(UpscaledError):
    """The program could not be installed; the message says what to do instead."""

    code = "setup_failed"


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
    archive = bin_dir / f".download-{secrets.token_hex(8)}.zip"
    try:
        await asyncio.to_thread(bin_dir.mkdir, parents=True, exist_ok=True)
        digest = await _download(url, archive)
        if digest != sha256:
            raise SetupError(
                f"What {url} sent is not the expected file (its SHA-256 is {digest}, "
                f"not {sha256}); nothing was installed. {_advice(bin_dir, url)}"
            )
        return await asyncio.to_thread(_unpack, archive, bin_dir)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        raise SetupError(f"{url} can't be fetched ({reason}). {_advice(bin_dir, url)}") from None
    except OSError as error:
        raise SetupError(f"{bin_dir} can't be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(archive.unlink, missing_ok=True)


def _advice(bin_dir: Path, url: str) -> str:
    return (
        f"Either download {url} in another way and put the file {PROGRAM} in it into "
        f"{bin_dir} (then: chmod +x {bin_dir / PROGRAM}), or use the builtin engine "
        "(upscaler.engine: builtin), which needs no program."
    )


async def _download(url: str, archive: Path) -> str:
    """Stream ``url`` into ``archive``; return its SHA-256."""
    digest = hashlib.sha256()
    length = 0
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session,
        session.get(url) as response,
    ):
        response.raise_for_status()
        file = await asyncio.to_thread(archive.open, "wb")
        try:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                length += len(chunk)
                if length > _MAX_ZIP_BYTES:
                    raise aiohttp.ClientPayloadError("the file is far larger than expected")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
    return digest.hexdigest()


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
