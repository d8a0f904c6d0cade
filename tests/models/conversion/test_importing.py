"""An import from end to end: the official networks come back, a failed import leaves nothing."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from testkit import checkpoints, parts
from testkit.small_disk import small_disk
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Engine, ModelFiles, UpscaleTask
from upscaled.models.card import read_card
from upscaled.models.catalog import ModelCatalog
from upscaled.models.conversion.check import check
from upscaled.models.conversion.definition import decibels, expectations, sample
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.imported import Imported
from upscaled.models.conversion.importing import import_model
from upscaled.models.conversion.layers import write_pair
from upscaled.models.conversion.recognition import recognise
from upscaled.models.conversion.request import ImportRequest
from upscaled.pictures import RawImage, Size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty models folder."""
    made = tmp_path / "models"
    made.mkdir()
    return made


def published(tmp_path: Path, content: bytes, name: str = "model.pth") -> Path:
    """Write a file as a user's download."""
    path = tmp_path / name
    path.write_bytes(content)
    return path


async def enlarged(
    engine: Engine, models: Path, stem: str, size: Size, workdir: Path
) -> NDArray[np.uint8]:
    """Return an engine's output for the test picture with a pair that enlarges four times."""
    picture, scale = sample(size), 4
    source = RawImage(workdir / "in.rgb", size)
    source.path.write_bytes(picture.tobytes())
    target = RawImage(workdir / "out.rgb", source.size.times(scale))
    target.path.write_bytes(bytes(target.total_bytes))
    files = ModelFiles(
        models / f"{stem}.param", models / f"{stem}.bin", scale, "data", "output", 1 << 15
    )
    task = UpscaleTask(source, target, files, 0, size.height, workdir=workdir)
    await engine.upscale(task, lambda _: None)
    return np.fromfile(target.path, np.uint8)


async def agreement(engine: Engine, size: Size, mine: Path, official: Path, stem: str) -> float:
    """Return the decibels between an engine's pictures by an imported pair and an official one."""
    workdir = mine.parent
    try:
        ours = await enlarged(engine, mine, "mine", size, workdir)
        theirs = await enlarged(engine, official, stem, size, workdir)
    finally:
        await engine.close()
    assert ours.std() > 10  # a picture, not nothing
    return decibels(ours, theirs)


@pytest.mark.parametrize(
    ("stem", "style", "write"),
    [
        ("realesr-animevideov3-x4", "compact", checkpoints.pth),
        ("realesrgan-x4plus-anime", "model", checkpoints.legacy_pth),
        ("realesrgan-x4plus-anime", "body", checkpoints.safetensors),
        ("realesrgan-x4plus", "RRDB_trunk", checkpoints.pth),
    ],
)
async def test_the_official_weights_come_back_as_the_official_network(
    tmp_path: Path, folder: Path, models_dir: Path, stem: str, style: str,
    write: Callable[..., bytes],
) -> None:  # fmt: skip
    pair = models_dir / f"{stem}.param", models_dir / f"{stem}.bin"
    tensors = await asyncio.to_thread(checkpoints.of_official, *pair, style)
    source = published(tmp_path, write(tensors))
    made = await import_model(ImportRequest(source, name="mine"), folder)
    assert made.scale == 4
    assert made.half
    assert min(made.agreement.decibels.values()) > 60
    for library in (CpuLibrary.NCNN, CpuLibrary.OPENVINO):
        engine = BuiltinEngine(CPU, library=library)
        assert await agreement(engine, Size(48, 40), folder, models_dir, stem) > 60
    assert (folder / "mine.bin").stat().st_size == pair[1].stat().st_size


@pytest.mark.native
@pytest.mark.parametrize(
    ("stem", "style", "driver"),
    [
        ("realesr-animevideov3-x4", "compact", parts.swiftshader_env),
        # Slower by far; lavapipe spoils only the other one. x4plus would take a minute.
        ("realesrgan-x4plus-anime", "body", parts.lavapipe_env),
    ],
)
async def test_the_native_program_makes_the_official_pictures_of_imported_weights(
    folder: Path, models_dir: Path, stem: str, style: str, driver: Callable[[], dict[str, str]]
) -> None:
    pair = models_dir / f"{stem}.param", models_dir / f"{stem}.bin"
    tensors = await asyncio.to_thread(checkpoints.of_official, *pair, style)
    network = await asyncio.to_thread(recognise, tensors)
    written = folder / "mine.param", folder / "mine.bin"
    await asyncio.to_thread(write_pair, network.layers(), *written, half=True)
    engine = BinaryEngine(parts.native_binary(), None, env=driver())
    assert await agreement(engine, Size(16, 12), folder, models_dir, stem) > 60


async def test_what_is_imported_is_offered_and_described(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu", scale=3)))
    request = ImportRequest(source, license="CC-BY-NC-4.0", description="For maps", author="Ada")
    steps: list[str] = []
    made = await import_model(request, folder, on_step=steps.append, looks_like_source=False)
    assert (made.name, made.architecture, made.scale) == ("model", "Compact", 3)
    assert steps[:2] == ["reading", "computing what it must make"]
    card = await asyncio.to_thread(read_card, folder / "model.yaml")
    assert card is not None
    assert (card.license, card.author, card.description) == ("CC-BY-NC-4.0", "Ada", "For maps")
    assert not card.commercial
    assert card.parameters == made.parameters
    catalog = ModelCatalog(folder)
    await catalog.rescan()
    assert [(model.name, model.supported_scales) for model in catalog.models] == [("model", (3,))]
    assert catalog.models[0].description == "For maps"
    strict = ModelCatalog(folder, commercial_only=True)
    await strict.rescan()
    assert strict.models == ()
    assert strict.rejected[0].reason == (
        "Its licence is CC-BY-NC-4.0, which is not known to allow commercial use "
        "(--commercial-only, upscaler.commercial_models_only). If it does, name it as an SPDX "
        "identifier in model.yaml, or write commercial_use: true there."
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.bin", "model.param", "model.yaml"
    ]  # fmt: skip


async def test_the_conversion_is_deterministic(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.span()))
    for name in ("one", "two"):
        await import_model(ImportRequest(source, name=name), folder, looks_like_source=False)
    for ending in ("param", "bin"):
        first, second = (folder / f"{name}.{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


async def test_weights_that_16_bits_cannot_hold_are_stored_in_32(
    tmp_path: Path, folder: Path
) -> None:
    tensors = dict(checkpoints.compact("prelu"))
    # The same function: one layer a million times as large, the next a million times smaller.
    for key in ("body.0.weight", "body.0.bias"):
        tensors[key] = tensors[key] * np.float32(1e6)
    tensors["body.2.weight"] = tensors["body.2.weight"] * np.float32(1e-6)
    source = published(tmp_path, checkpoints.pth(tensors))
    made = await import_model(ImportRequest(source), folder, looks_like_source=False)
    assert not made.half


async def test_a_network_with_other_colours_is_refused(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.esrgan("body")))
    with pytest.raises(ConversionError, match="changes colours by"):
        await import_model(ImportRequest(source), folder)
    assert list(folder.iterdir()) == []


async def test_a_wrong_conversion_is_noticed(tmp_path: Path, folder: Path) -> None:
    network = recognise(checkpoints.compact("prelu"))
    other = recognise(checkpoints.compact("prelu", seed=2))
    param, weights = folder / "x.param", folder / "x.bin"
    await asyncio.to_thread(write_pair, other.layers(), param, weights, half=False)
    expected = await asyncio.to_thread(expectations, network)
    with pytest.raises(ConversionError, match="makes another picture than the original"):
        await check(
            network.scale, expected, param, weights, tmp_path,
            libraries=(CpuLibrary.NCNN,), looks_like_source=False,
        )  # fmt: skip


async def test_layers_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, folder: Path
) -> None:
    tensors = dict(checkpoints.compact("prelu", features=8))
    tensors["body.2.weight"] = tensors["body.2.weight"][:, :7].copy()
    source = published(tmp_path, checkpoints.pth(tensors))
    with pytest.raises(ConversionError, match="do not fit one another"):
        await import_model(ImportRequest(source), folder)
    assert list(folder.iterdir()) == []


async def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
    await import_model(ImportRequest(source), folder, looks_like_source=False)
    before = (folder / "model.param").stat().st_mtime_ns
    with pytest.raises(ConversionError, match="There is a model model already"):
        await import_model(ImportRequest(source), folder, looks_like_source=False)
    assert (folder / "model.param").stat().st_mtime_ns == before
    again = ImportRequest(source, replace=True)
    await import_model(again, folder, looks_like_source=False)


async def test_a_link_to_a_file_is_imported_under_the_links_name(
    tmp_path: Path, folder: Path
) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
    link = tmp_path / "4x-Linked.pth"
    link.symlink_to(source)
    made = await import_model(ImportRequest(link), folder, looks_like_source=False)
    assert made.name == "4x-Linked"


async def test_of_two_imports_under_one_name_one_is_kept_whole(
    tmp_path: Path, folder: Path
) -> None:
    sources = {}
    for scale in (2, 3):
        path = tmp_path / f"{scale}.pth"
        path.write_bytes(checkpoints.pth(checkpoints.compact("prelu", scale=scale)))
        sources[scale] = path
    outcomes = await asyncio.gather(
        *(
            import_model(ImportRequest(path, "same"), folder, looks_like_source=False)
            for path in sources.values()
        ),
        return_exceptions=True,
    )
    (kept,) = (one for one in outcomes if isinstance(one, Imported))
    (refused,) = (one for one in outcomes if isinstance(one, ConversionError))
    assert "There is a model same already" in refused.message
    card = await asyncio.to_thread(read_card, folder / "same.yaml")
    assert card is not None
    content = await asyncio.to_thread(sources[kept.scale].read_bytes)
    assert card.original_sha256 == hashlib.sha256(content).hexdigest()
    catalog = ModelCatalog(folder)
    await catalog.rescan()
    assert catalog.get("same").supported_scales == (kept.scale,)


@pytest.fixture
def small_folder(folder: Path) -> Iterator[Path]:
    with small_disk(folder, 64):
        yield folder


async def test_a_full_disk_is_told_with_the_room_that_is_needed(
    tmp_path: Path, small_folder: Path
) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu", features=64)))
    with pytest.raises(ConversionError, match=r"no room .* convert model.pth; free \d+ MiB on"):
        await import_model(ImportRequest(source), small_folder, looks_like_source=False)
    assert list(small_folder.iterdir()) == []


async def test_a_name_with_a_path_in_it_is_refused(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
    with pytest.raises(ConversionError, match="is not a valid model name"):
        await import_model(ImportRequest(source, name="../evil"), folder)


async def test_a_file_is_read_in_a_confined_process(
    tmp_path: Path, folder: Path, may_block: None
) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
    seen: list[str] = []

    def look(step: str) -> None:
        if step == "computing what it must make":
            (worker,) = [
                child
                for child in psutil.Process().children()
                if "upscaled.models.conversion.worker" in child.cmdline()
            ]
            status = Path(f"/proc/{worker.pid}/status").read_text("utf-8")
            seen.extend(line for line in status.splitlines() if line.startswith("Seccomp:"))
            assert worker.nice() == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
            assert worker.rlimit(psutil.RLIMIT_AS)[0] < 8 << 30

    await import_model(ImportRequest(source), folder, on_step=look, looks_like_source=False)
    assert seen == ["Seccomp:\t2"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cposix\nsystem\n(X\x0c\x00\x00\x00touch marker\x85R.",
        b"\x80\x02}" * 2000,
        checkpoints.pth(checkpoints.compact("prelu"))[:-300],
        checkpoints.safetensors(
            {**checkpoints.compact("prelu"), "\x1b[2Jbad": np.zeros(3, np.float32)}
        ),
        checkpoints.legacy_pth({"body.0.weight": np.zeros((4, 3, 3, 5), np.float32)}),
    ],
    ids=["program", "nested", "cut off", "control characters", "odd shape"],
)
async def test_a_hostile_file_is_refused_with_a_sentence_and_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    source = published(tmp_path, content)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConversionError) as refused:
        await import_model(ImportRequest(source), folder)
    assert refused.value.message.endswith(".")
    assert refused.value.message.isprintable()
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


async def test_an_import_that_is_cancelled_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
    begun = asyncio.Event()
    task = asyncio.create_task(
        import_model(ImportRequest(source), folder, on_step=lambda _: begun.set())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(folder.iterdir()) == []
    assert not [
        child
        for child in psutil.Process().children()
        if "upscaled.models.conversion.worker" in child.cmdline()
    ]


async def test_what_a_killed_import_left_goes_away_with_the_next(
    tmp_path: Path, folder: Path
) -> None:
    left, in_use, young = (folder / f".import-{name}" for name in ("left", "used", "young"))
    for made in (left, in_use, young):
        made.mkdir()
        (made / "half.bin").write_bytes(b"x")
    for made in (left, in_use):
        os.utime(made, (1, 1))
    lock = os.open(in_use, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        source = published(tmp_path, checkpoints.pth(checkpoints.compact("prelu")))
        await import_model(ImportRequest(source), folder, looks_like_source=False)
    finally:
        os.close(lock)
    assert not left.exists()
    assert in_use.exists()
    assert young.exists()
