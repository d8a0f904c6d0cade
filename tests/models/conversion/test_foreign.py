"""Families that only the packages of the extra know: converted and checked, or refused in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from testkit import checkpoints, foreign_networks, parts
from testkit.paths import ROOT
from upscaled.models.catalog import ModelCatalog
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.importing import import_model
from upscaled.models.conversion.request import ImportRequest
from upscaled.workers.environment import plain_env

LAUNCHER = "upscaled.models.conversion.pnnx_launcher"
HELP = "Look for an ESRGAN, Compact, SPAN, RealPLKSR or MoSR model by the same author."


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the networks as their authors publish them."""
    return foreign_networks.made(tmp_path_factory.mktemp("published"))


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The packages of the extra, as if they were installed."""
    folder = parts.import_packages()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    # The process that converts has them, this one does not.
    assert not {"torch", "spandrel", "pnnx"} & set(sys.modules)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty models folder."""
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("name", "family", "scale"),
    [
        ("RealPLKSR", "PLKSR", 4),
        ("PLKSR", "PLKSR", 2),
        ("MoSR", "MoSR", 2),
        ("SwiftSRGAN", "Swift-SRGAN", 2),
        ("RCAN", "RCAN", 3),
        ("DnCNN", "DnCNN", 1),
    ],
)
@pytest.mark.usefixtures("extra")
async def test_a_network_makes_the_same_pictures_as_in_pytorch(
    published: Path, folder: Path, name: str, family: str, scale: int
) -> None:
    steps: list[str] = []
    request = ImportRequest(published / f"{name}.pth", license="MIT")
    made = await import_model(request, folder, on_step=steps.append, looks_like_source=False)
    assert (made.architecture, made.scale) == (family, scale)
    assert set(made.agreement.decibels) >= {"ncnn"}
    assert min(made.agreement.decibels.values()) >= 60
    assert steps[:2] == ["reading", "loading it with PyTorch"]
    assert "converting with pnnx" in steps
    catalog = ModelCatalog(folder)
    await catalog.rescan()
    (model,) = catalog.models
    assert (model.name, model.supported_scales) == (name, (scale,))
    assert (model.card.architecture, model.card.license) == (family, "MIT")
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{name}.{ending}" for ending in ("bin", "param", "yaml")
    ]


@pytest.mark.usefixtures("extra")
async def test_the_conversion_is_deterministic(published: Path, folder: Path) -> None:
    for name in ("one", "two"):
        await import_model(ImportRequest(published / "PLKSR.pth", name=name), folder)
    for ending in ("param", "bin"):
        first, second = (folder / f"{name}.{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SwinIR", f"The network is of the family SwinIR, which ncnn cannot run. {HELP}"),
        ("HAT", f"The network is of the family HAT, which ncnn cannot run. {HELP}"),
        ("DAT", f"The network is of the family DAT, which ncnn cannot run. {HELP}"),
        ("DySample", "family PLKSR, which ncnn cannot run: it has no layers for aten::meshgrid, "),
        ("MoESR", "family MoESR, which ncnn cannot run: it has no layers for F.pad, pnnx.Expr"),
        ("SAFMN", "family SAFMN and takes only pictures of certain sizes"),
        ("DRCT", "family DRCT and takes only pictures of certain sizes"),
        ("GreyDnCNN", "family DnCNN and does not take colour pictures."),
    ],
)
@pytest.mark.usefixtures("extra")
async def test_what_ncnn_cannot_run_is_refused_with_what_helps(
    published: Path, folder: Path, name: str, words: str
) -> None:
    with pytest.raises(ConversionError) as caught:
        await import_model(ImportRequest(published / f"{name}.pth"), folder)
    assert words in caught.value.message
    assert list(folder.iterdir()) == []


async def test_without_the_packages_the_sentence_says_what_to_type(
    published: Path, folder: Path
) -> None:
    with pytest.raises(ConversionError) as caught:
        await import_model(ImportRequest(published / "RealPLKSR.pth"), folder)
    assert caught.value.message == (
        "The network is of the family RealPLKSR. Converting it needs torch and spandrel and pnnx; "
        "type: pip install 'upscaled[import]' (docs/models.md says how to get it without 3 GB for "
        "GPUs), then import the file again."
    )
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("extra")
async def test_a_family_that_nobody_knows_is_refused(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "m.pth"
    source.write_bytes(checkpoints.pth({"some.weight": np.ones((3, 3), np.float32)}))
    with pytest.raises(ConversionError) as caught:
        await import_model(ImportRequest(source), folder)
    assert caught.value.message == (
        "The network is of a family that spandrel does not know either. Its first weights are "
        "some.weight."
    )


@pytest.mark.usefixtures("extra")
async def test_a_damaged_network_is_refused_and_leaves_nothing(
    published: Path, tmp_path: Path, folder: Path
) -> None:
    cut = tmp_path / "cut.pth"
    content = (published / "PLKSR.pth").read_bytes()
    cut.write_bytes(content[:-200])
    # The right names with other shapes: spandrel takes it for the family, PyTorch does not.
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(
        checkpoints.pth(
            {
                "feats.0.weight": np.ones((16, 3, 3, 3), np.float32),
                "feats.1.lk.conv.weight": np.ones((4, 5, 17, 17), np.float32),
                "feats.1.refine.weight": np.ones((16, 16, 1, 1), np.float32),
            }
        )
    )
    for source in (cut, wrong):
        with pytest.raises(ConversionError):
            await import_model(ImportRequest(source), folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("within", ["plain", "beside the weights of a family it does not know"])
@pytest.mark.usefixtures("extra")
async def test_no_code_of_a_file_is_run(tmp_path: Path, folder: Path, within: str) -> None:
    marker = tmp_path / "marker"
    command = f"touch {marker}".encode()
    call = b"cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR"
    source = tmp_path / "m.pth"
    if within == "plain":
        source.write_bytes(b"\x80\x02" + call + b".")
    else:
        source.write_bytes(b"\x80\x02}X\x08\x00\x00\x00feats.1.w" + call + b"s.")
    with pytest.raises(ConversionError):
        await import_model(ImportRequest(source), folder)
    assert not marker.exists()
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("extra")
async def test_pytorch_and_pnnx_are_confined(
    published: Path, folder: Path, may_block: None
) -> None:
    seen: list[str] = []

    def look(step: str) -> None:
        if step == "computing what it must make":
            (worker,) = [
                child
                for child in psutil.Process().children()
                if "upscaled.models.conversion.spandrel_worker" in child.cmdline()
            ]
            status = Path(f"/proc/{worker.pid}/status").read_text("utf-8")
            seen.extend(line for line in status.splitlines() if line.startswith("Seccomp:"))
            assert worker.rlimit(psutil.RLIMIT_AS)[0] < 10 << 30

    await import_model(ImportRequest(published / "PLKSR.pth"), folder, on_step=look)
    assert seen == ["Seccomp:\t2"]


def launched(workdir: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """Run a program as pnnx is run."""
    return subprocess.run(
        [sys.executable, "-m", LAUNCHER, str(workdir), "1024", *line],
        capture_output=True, text=True, check=False, cwd=ROOT, env=plain_env(),
    )  # fmt: skip


def test_what_is_launched_reaches_its_folder_and_nothing_else(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    workdir.mkdir()
    (workdir / "mine").write_text("mine")
    (tmp_path / "other").write_text("other")
    assert launched(workdir, "/usr/bin/cat", "mine").stdout == "mine"
    other = launched(workdir, "/usr/bin/cat", str(tmp_path / "other"))
    assert (other.returncode, "Permission denied" in other.stderr) == (1, True)
    # It starts no other program, neither in its place nor beside it.
    for script in ("exec /usr/bin/touch made", "/usr/bin/touch made; true"):
        done = launched(workdir, "/usr/bin/dash", "-c", script)
        assert "Permission denied" in done.stderr or "Cannot fork" in done.stderr
        assert not (workdir / "made").exists()
