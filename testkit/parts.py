"""Programs and drivers that some tests need; `scripts/test --all` installs them.

A test whose part is missing is skipped on a user's machine and fails in CI (``CI=true``).
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from testkit.paths import ROOT

_SWIFTSHADER = (
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/snap/chromium/current/usr/lib/chromium-browser/vk_swiftshader_icd.json",
)
_LAVAPIPE = tuple(
    f"/usr/share/vulkan/icd.d/lvp_icd{suffix}.json" for suffix in (f".{platform.machine()}", "")
)


def missing(part: str) -> NoReturn:
    """Skip the test because ``part`` is missing, or fail it in CI."""
    sentence = f"{part} is missing: scripts/test --all gets it"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@functools.cache
def _runs(program: Path) -> bool:
    """Tell whether the program starts: ``-h`` ends with 255, a missing library with 127."""
    try:
        done = subprocess.run([program, "-h"], capture_output=True, timeout=30, check=False)
    except OSError:
        return False
    return done.returncode == 255


def native_binary() -> Path:
    """Return upscayl-bin: the one that ``TEST_NATIVE_BINARY`` names, or the one in ``.tools``."""
    if platform.machine() != "x86_64":
        pytest.skip("upscayl-bin exists for x86-64 only")
    named = os.environ.get("TEST_NATIVE_BINARY")
    program = Path(named) if named else ROOT / ".tools" / "upscayl-bin"
    if not program.is_file():
        missing("upscayl-bin")
    if not _runs(program):
        missing("libvulkan1 or libgomp1, which upscayl-bin needs,")
    return program


def packed_models(stem: str) -> Path:
    """Return the folder with the models of packs, among them the network ``stem``."""
    folder = ROOT / ".tools" / "models"
    if not (folder / f"{stem}.bin").is_file():
        missing("a pack of models")
    return folder


def import_packages() -> Path:
    """Return the folder with the packages of the extra ``import``."""
    folder = ROOT / ".tools" / "import"
    if not (folder / ".made").is_file():
        missing("PyTorch")
    return folder


def node_red() -> Path:
    """Return Node-RED's program, for ``node``."""
    program = ROOT / ".tools" / "node-red" / "node_modules" / "node-red" / "red.js"
    if not program.is_file():
        missing("Node-RED")
    return program


def _driver(name: str, candidates: Sequence[str]) -> dict[str, str]:
    for candidate in candidates:
        if Path(candidate).is_file():
            return {"VK_ICD_FILENAMES": candidate}
    missing(f"the Vulkan driver {name}")


def swiftshader_env() -> dict[str, str]:
    """Return the variables that make SwiftShader (correct but slow) the only Vulkan device."""
    return _driver("SwiftShader", _SWIFTSHADER)


def lavapipe_env() -> dict[str, str]:
    """Return the variables that make lavapipe the only Vulkan device.

    On some of its versions the native programs corrupt animevideov3 results and exit with 0.
    """
    return _driver("lavapipe", _LAVAPIPE)


def two_devices_env(folder: Path) -> dict[str, str]:
    """Return the variables that make two devices of lavapipe the only Vulkan devices.

    The loader takes two copies of the driver, which go into ``folder``, for two drivers.
    """
    description = json.loads(Path(lavapipe_env()["VK_ICD_FILENAMES"]).read_text("utf-8"))
    driver = _path_of(description["ICD"]["library_path"])
    files = []
    for number in range(2):
        copy = folder / f"driver-{number}.so"
        shutil.copy(driver, copy)
        description["ICD"]["library_path"] = str(copy)
        files.append(folder / f"driver-{number}.json")
        files[-1].write_text(json.dumps(description), "utf-8")
    return {"VK_ICD_FILENAMES": ":".join(str(file) for file in files)}


def _path_of(library: str) -> str:
    """Return the path of a library that a driver's description names; newer ones name no folder."""
    if "/" in library:
        return library
    listed = subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True
    ).stdout
    lines = (line.split() for line in listed.splitlines())
    return next(words[-1] for words in lines if words and words[0] == library)
