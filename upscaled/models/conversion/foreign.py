"""Networks of families that only the packages of the extra ``import`` know: spandrel and pnnx.

spandrel builds the network and PyTorch computes what it must make (`spandrel_worker`); pnnx writes
it as ncnn layers (`pnnx_launcher`). Both work in confined processes. What comes out is checked as
any other conversion.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from upscaled.models.conversion.converting import (
    EXACT,
    HALF,
    Converted,
    converted,
    sentence,
)
from upscaled.models.conversion.errors import ConversionError, UnknownFamilyError
from upscaled.models.conversion.layers import INPUT, OUTPUT
from upscaled.models.conversion.recognition import ELSEWHERE
from upscaled.models.conversion.spandrel_worker import RECORD, SHAPES, code_folders
from upscaled.workers import processes
from upscaled.workers.environment import plain_env

_PACKAGES = ("torch", "spandrel", "pnnx")
_WORKER_MODULE = "upscaled.models.conversion.spandrel_worker"
_LAUNCHER_MODULE = "upscaled.models.conversion.pnnx_launcher"
_MEMORY_MB = 8192
"""Address space besides the weights. PyTorch takes 1 GB, pnnx less."""
_SECONDS = 900.0
_LARGEST_OUTPUT = 1 << 20
"""Bytes that are read of what pnnx prints."""
_ENTRY, _EXIT = "in0", "out0"
"""What pnnx names the network's input and output."""
_MOST_NAMED = 5


def missing_packages() -> list[str]:
    """Return those of the extra's packages that are not installed."""
    importlib.invalidate_caches()
    return [name for name in _PACKAGES if find_spec(name) is None]


async def converted_by_pnnx(
    source: Path,
    workdir: Path,
    *,
    name: str,
    because: UnknownFamilyError,
    on_step: Callable[[str], None],
) -> Converted:
    """Write a file as pairs with the help of the extra's packages.

    Args:
        source: the file.
        workdir: an existing folder.
        name: of the file, for messages.
        because: what the reader of the base installation said.
        on_step: is told what is being done.

    Raises:
        ConversionError: the packages are not installed, or the network cannot be converted.
        OSError: a file can't be read or written.
        ShortageError: the system cannot start a process.
    """
    if lacking := await asyncio.to_thread(missing_packages):
        raise ConversionError(
            f"{because.message} Converting it needs {' and '.join(lacking)}; type: "
            "pip install 'upscaled[import]' (docs/models.md says how to get it without 3 GB for "
            "GPUs), then import the file again."
        )
    folders = ":".join(map(str, sorted(await asyncio.to_thread(code_folders))))
    made = await converted(
        source, workdir, name=name, activation=None, on_step=on_step, module=_WORKER_MODULE,
        memory_mb=_MEMORY_MB, env={"PYTHONPATH": folders},
    )  # fmt: skip
    on_step("converting with pnnx")
    for stem in (EXACT, HALF) if made.fits_half else (EXACT,):
        await _run_pnnx(workdir, stem, made.architecture)
        await asyncio.to_thread(_adopt, workdir, stem, made.architecture)
    return made


def _command_line(workdir: Path, stem: str) -> list[str]:
    spec = find_spec("pnnx")
    assert spec is not None  # noqa: S101 - it was looked for
    program = Path(str(spec.origin)).with_name("pnnx")
    shapes = (f"[1,3,{height},{width}]" for height, width in SHAPES)
    return [
        sys.executable, "-m", _LAUNCHER_MODULE, str(workdir.absolute()), str(_MEMORY_MB),
        str(program), RECORD, *map("{}={}".format, ("inputshape", "inputshape2"), shapes),
        f"fp16={int(stem == HALF)}", f"ncnnparam={stem}.made", f"ncnnbin={stem}.bin",
    ]  # fmt: skip


async def _run_pnnx(workdir: Path, stem: str, family: str) -> None:
    line = _command_line(workdir, stem)
    try:
        async with (
            asyncio.timeout(_SECONDS),
            processes.running(line, env=plain_env()) as child,
        ):
            said = b""
            while piece := await child.stderr.read(1 << 16):
                said = (said + piece)[-_LARGEST_OUTPUT:]
            status = await child.wait()
    except TimeoutError:
        raise ConversionError(
            f"pnnx takes more than {_SECONDS:g} seconds for this {family} network. {ELSEWHERE}"
        ) from None
    if status != 0:
        lines = said.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise ConversionError(
            sentence(
                f"pnnx cannot convert this {family} network (it ended with {ended}: "
                f"{last[:200].rstrip('.')}). {ELSEWHERE}"
            )
        )


def _adopt(workdir: Path, stem: str, family: str) -> None:
    """Write pnnx's ``.param`` with the names of blobs that the native programs ask for; blocking.

    Raises:
        ConversionError: ncnn has no layer for a part of the network.
    """
    magic, counts, *lines = (workdir / f"{stem}.made").read_text("utf-8").splitlines()
    layers = [line.split() for line in lines if line.strip()]
    # What pnnx has no ncnn layer for keeps the name that PyTorch has for it.
    foreign = sorted({layer[0] for layer in layers if set(layer[0]) & set(".:")})
    if foreign:
        more = ", …" if len(foreign) > _MOST_NAMED else ""
        raise ConversionError(
            sentence(
                f"The network is of the family {family}, which ncnn cannot run: it has no layers "
                f"for {', '.join(foreign[:_MOST_NAMED])}{more}. {ELSEWHERE}"
            )
        )
    names = {_ENTRY: INPUT, _EXIT: OUTPUT}
    made = []
    for layer in layers:
        end = 4 + int(layer[2]) + int(layer[3])
        blobs = [names.get(blob, blob) for blob in layer[4:end]]
        made.append(" ".join([*layer[:4], *blobs, *layer[end:]]))
    (workdir / f"{stem}.param").write_text("\n".join([magic, counts, *made, ""]), "utf-8")
