"""Checks whether this machine can upscale, and with what."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from upscaled import __version__
from upscaled.commands.bench import known_tables, lines_of
from upscaled.commands.model_speeds import advice_of
from upscaled.commands.upscale import upscale_file
from upscaled.config.settings import Config
from upscaled.engines.binary.program import find_program, probe
from upscaled.engines.builtin.choice import Table
from upscaled.engines.devices import list_devices
from upscaled.engines.engine import DeviceKind
from upscaled.engines.selection import choose, open_methods
from upscaled.errors import UpscaledError
from upscaled.imaging import Imaging
from upscaled.models.catalog import ModelCatalog
from upscaled.server import process_limits, room
from upscaled.timing.speeds import SMALL_FOR_PHOTOS

_NO_GPU = frozenset({DeviceKind.CPU.value, DeviceKind.SOFTWARE.value})


@dataclass(frozen=True)
class FoundDevice:
    """A Vulkan device: its index is what ``upscaler.gpu_ids`` takes."""

    index: int
    name: str
    kind: str


@dataclass(frozen=True)
class FoundModel:
    """A model that is offered."""

    name: str
    scales: tuple[int, ...]


@dataclass(frozen=True)
class RejectedModel:
    """A file or pair in the models folder that can't be used, and why."""

    name: str
    reason: str


@dataclass
class DoctorReport:
    """The findings.

    ``problems`` has a sentence for each thing that prevents upscaling, ``warnings`` for each that
    makes some jobs fail.
    """

    version: str = __version__
    python: str = platform.python_version()
    platform: str = ""
    devices: tuple[FoundDevice, ...] = ()
    binary: str | None = None
    binary_problem: str | None = None
    engine: str | None = None
    engine_devices: tuple[str, ...] = ()
    engine_reason: str | None = None
    cpu_library: str | None = None
    """The library that runs networks on the processor, with its version."""
    ways: tuple[Table, ...] = ()
    """What was measured of the methods to run networks, by the name that the JSON has."""
    models_dir: str = ""
    models: tuple[FoundModel, ...] = ()
    rejected_models: tuple[RejectedModel, ...] = ()
    memory_free_mb: int | None = None
    data_dir: str = ""
    disk_free_mb: int = 0
    trial: str | None = None
    """The outcome for a small picture, where there are an engine and a model."""
    sandbox: str | None = None
    """What confines the processes that decode pictures."""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    advice: str | None = None
    """A quicker model, if the default one is slow on this machine."""


async def examine(config: Config) -> DoctorReport:
    """Check everything, and upscale a small picture as a trial."""
    report = DoctorReport(models_dir=str(config.models_dir), data_dir=str(config.data_dir))
    report.platform = await asyncio.to_thread(platform.platform)
    report.memory_free_mb = await asyncio.to_thread(_memory_free_mb)
    report.disk_free_mb = await asyncio.to_thread(room.free_bytes, config.data_dir) >> 20
    report.warnings = [
        *process_limits.complaints(config),
        *await asyncio.to_thread(room.complaints, config),
    ]
    report.devices = tuple(
        FoundDevice(device.index, device.name, device.kind.value)
        for device in await list_devices()
        if device.index is not None
    )
    await _check_binary(config, report)
    await _check_engine(config, report)
    await _check_models(config, report)
    await _check_sandbox(report)
    await _advise(report, config)
    if not report.problems:
        await _try(config, report)
    return report


async def _check_binary(config: Config, report: DoctorReport) -> None:
    program = await asyncio.to_thread(find_program, config.upscaler.binary_path, config.path("bin"))
    if program is None:
        return
    report.binary = str(program)
    try:
        await probe(program)
    except UpscaledError as error:
        report.binary_problem = error.message


async def _check_engine(config: Config, report: DoctorReport) -> None:
    try:
        choice = await choose(config)
    except UpscaledError as error:
        report.problems.append(error.message)
        return
    report.engine = choice.engine
    report.engine_devices = tuple(f"{device.id} ({device.name})" for device in choice.devices)
    report.engine_reason = choice.reason
    report.cpu_library = await asyncio.to_thread(choice.library.with_version)
    methods = await open_methods(config, choice, config.methods_file)
    report.ways = tuple(await known_tables(config, methods))


async def _check_models(config: Config, report: DoctorReport) -> None:
    catalog = ModelCatalog.of(config)
    await catalog.rescan()
    report.models = tuple(
        FoundModel(model.name, tuple(model.supported_scales)) for model in catalog.models
    )
    report.rejected_models = tuple(
        RejectedModel(rejected.name, rejected.reason) for rejected in catalog.rejected
    )
    if not report.models:
        report.problems.append(
            f"There is no usable model in {config.models_dir}; type: upscaled models install"
        )


async def _check_sandbox(report: DoctorReport) -> None:
    imaging = Imaging(max_pixels=1)
    try:
        report.sandbox = str(await imaging.warm())
    except UpscaledError as error:
        report.problems.append(f"No decoder can be started: {error.message}")
    finally:
        await imaging.close()


async def _advise(report: DoctorReport, config: Config) -> None:
    """Say which model is quick here, and how much, where there is no GPU."""
    if not report.models or any(device.kind not in _NO_GPU for device in report.devices):
        return
    advice = "Without a GPU the large models take a minute for a megapixel, small ones seconds."
    names = {model.name for model in report.models}
    if SMALL_FOR_PHOTOS in names:
        advice += f" For photos {SMALL_FOR_PHOTOS} is quick."
    else:
        advice += " `upscaled setup --photo-fast` installs a small model for photos."
    catalog = ModelCatalog.of(config)
    await catalog.rescan()
    with contextlib.suppress(UpscaledError):  # it was reported already: no engine can be chosen
        advice = await advice_of(catalog, config) or advice
    report.advice = f"{advice} `upscaled models` lists them all."


async def _try(config: Config, report: DoctorReport) -> None:
    """Upscale a small picture with the model that loads fastest."""
    name = await asyncio.to_thread(_smallest_model, config, report)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="upscaled-doctor-"))
    started = time.monotonic()
    try:
        source = folder / "source.png"
        await asyncio.to_thread(Image.linear_gradient("L").resize((32, 32)).save, source)
        job = await upscale_file(
            config, source, folder / "result.png", {"model_name": name}, lambda _percent: None
        )
    except UpscaledError as error:
        report.problems.append(f"A trial picture could not be upscaled: {error.message}")
        return
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
    seconds = time.monotonic() - started
    report.trial = f"a small picture went through {name} on {job.device} in {seconds:.1f} s"


def _smallest_model(config: Config, report: DoctorReport) -> str:
    def size(model: FoundModel) -> int:
        files = list(config.models_dir.glob(f"{model.name}*.bin"))
        return max((file.stat().st_size for file in files), default=0)

    return min(report.models, key=size).name


def _memory_free_mb() -> int | None:
    """Return the MiB that can be used without swapping; None where Linux does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return None


def as_text(report: DoctorReport) -> str:
    """Return the report as text for people."""
    lines = [f"upscaled {report.version} on Python {report.python}, {report.platform}", ""]
    lines.append("Vulkan devices")
    lines += [f"  {d.index}: {d.name} ({d.kind})" for d in report.devices] or ["  none found"]
    lines.append("Native program")
    lines.append(f"  {report.binary or 'none; `upscaled setup --binary` fetches it'}")
    if report.binary_problem:
        lines.append(f"  not usable: {report.binary_problem}")
    lines.append("Engine")
    if report.engine:
        lines.append(f"  {report.engine} on {', '.join(report.engine_devices)}")
        lines.append(f"  because: {report.engine_reason}")
        lines.append(f"  on the processor: {report.cpu_library}")
        if report.ways:
            lines.append("Measured methods on the processor (upscaled bench measures more)")
            lines += [f"  {line}" for table in report.ways for line in lines_of(table)]
    else:
        lines.append("  none")
    lines.append(f"Models in {report.models_dir}")
    lines += [_model_line(model.name, model.scales) for model in report.models] or ["  none"]
    lines += [f"  left out: {bad.name}: {bad.reason}" for bad in report.rejected_models]
    if report.advice:
        lines.append(f"  {report.advice}")
    if report.sandbox:
        lines += ["Decoder's sandbox", f"  {report.sandbox}"]
    lines.append("Room")
    memory = "unknown" if report.memory_free_mb is None else f"{report.memory_free_mb} MiB"
    lines.append(f"  memory {memory} free")
    lines.append(f"  disk {report.disk_free_mb} MiB free in {report.data_dir}")
    if report.trial:
        lines += ["Trial", f"  {report.trial}"]
    lines.append("")
    lines += [f"WARNING: {warning}" for warning in report.warnings]
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("This machine can upscale.")
    return "\n".join(lines)


def _model_line(name: str, scales: tuple[int, ...]) -> str:
    return f"  {name} (×{', ×'.join(map(str, scales))})"
