"""The doctor: what it finds on a machine, and how it tells."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.parts import lavapipe_env, native_binary
from upscaled.commands.doctor import DoctorReport, as_text, examine
from upscaled.config.settings import Config
from upscaled.config.sources import load
from upscaled.server import room


@pytest.fixture
def quick_models(models_dir: Path, tmp_path: Path) -> Path:
    """A folder with the quickest network alone."""
    folder = tmp_path / "models"
    folder.mkdir()
    for file in models_dir.glob("realesr-animevideov3-x2.*"):
        (folder / file.name).symlink_to(file)
    return folder


def config_for(models: Path, folder: Path, **more: str) -> Config:
    """Return settings for the CPU, with everything in ``folder``."""
    return load(
        environ={
            "UPSCALED_UPSCALER_MODELS_PATH": str(models),
            "UPSCALED_UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
            "UPSCALED_UPSCALER_ENGINE": "builtin",
            "UPSCALED_UPSCALER_GPU_IDS": "-1",
            "UPSCALED_STORAGE_DATA_DIR": str(folder / "data"),
            **more,
        }
    )


async def test_a_working_machine_has_no_problems_and_a_trial(
    quick_models: Path, tmp_path: Path
) -> None:
    report = await examine(config_for(quick_models, tmp_path))
    assert report.problems == []
    assert report.engine == "builtin"
    assert report.engine_devices == ("cpu (CPU)",)
    assert [(model.name, model.scales) for model in report.models] == [
        ("realesr-animevideov3", (2,))
    ]
    assert report.trial is not None
    assert "realesr-animevideov3 on cpu" in report.trial
    assert report.memory_free_mb is not None
    assert report.memory_free_mb > 0
    assert report.disk_free_mb > 0
    text = as_text(report)
    assert "This machine can upscale." in text
    if not any(device.kind in {"discrete", "integrated", "virtual"} for device in report.devices):
        assert "`upscaled setup --photo-fast` installs a small model for photos." in text
    assert report.sandbox is not None
    assert f"Decoder's sandbox\n  {report.sandbox}\n" in text
    assert "realesr-animevideov3 (×2)" in text


async def test_where_there_is_no_gpu_it_names_a_quick_model_and_how_quick_it_is(
    models_dir: Path, tmp_path: Path
) -> None:
    default = {"UPSCALED_UPSCALER_DEFAULT_MODEL": "realesrgan-x4plus"}
    report = await examine(config_for(models_dir, tmp_path, **default))
    if any(device.kind in {"discrete", "integrated", "virtual"} for device in report.devices):
        assert report.advice is None
        return
    assert re.match(
        r"realesrgan-x4plus takes about \d+ s for a megapixel here\. "
        r"realesr-animevideov3 \(Optimized for anime/animation\) takes \d+ s\. ",
        report.advice or "",
    )


async def test_without_models_it_says_what_to_type(tmp_path: Path) -> None:
    report = await examine(config_for(tmp_path / "none", tmp_path))
    assert report.trial is None
    (problem,) = report.problems
    assert "type: upscaled models install" in problem
    assert f"PROBLEM: {problem}" in as_text(report)


async def test_a_model_that_is_left_out_is_told_with_its_reason(
    quick_models: Path, tmp_path: Path
) -> None:
    (quick_models / "torn.param").write_text("7767517\n")
    report = await examine(config_for(quick_models, tmp_path))
    (bad,) = report.rejected_models
    assert bad.name == "torn.param"
    assert f"left out: torn.param: {bad.reason}" in as_text(report)
    assert report.problems == []


async def test_an_engine_that_cannot_be_had_is_a_problem(
    quick_models: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "no-such-program")
    report = await examine(
        config_for(
            quick_models, tmp_path, UPSCALED_UPSCALER_ENGINE="binary",
            UPSCALED_UPSCALER_GPU_IDS="", UPSCALED_UPSCALER_BINARY_PATH=missing,
        )
    )  # fmt: skip
    assert report.engine is None
    assert report.problems
    assert report.trial is None


def test_devices_are_named_as_vulkan_does_and_auto_takes_no_software_one(
    quick_models: Path, tmp_path: Path
) -> None:
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")},
        **lavapipe_env(),
        "UPSCALED_UPSCALER_MODELS_PATH": str(quick_models),
        "UPSCALED_UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
        "UPSCALED_UPSCALER_BINARY_PATH": str(native_binary()),
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "upscaled", "doctor", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (device,) = report["devices"]
    assert device["name"].startswith("llvmpipe")
    assert (device["index"], device["kind"]) == (0, "software")
    assert report["binary"] == str(native_binary())
    assert report["binary_problem"] is None
    assert report["engine"] == "builtin"
    assert report["engine_devices"] == ["cpu (CPU)"]
    assert "no real GPU" in report["engine_reason"]


def test_the_exit_status_is_1_where_nothing_can_be_upscaled(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "UPSCALED_UPSCALER_MODELS_PATH": str(tmp_path),
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "upscaled", "doctor"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "PROBLEM: " in done.stdout


def test_the_text_of_an_empty_machine_is_complete() -> None:
    text = as_text(DoctorReport(problems=["Nothing is here."]))
    for part in ("Vulkan devices\n  none found", "Engine\n  none", "memory unknown", "PROBLEM: No"):
        assert part in text
    assert "can upscale" not in text


async def test_what_makes_some_jobs_fail_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_models: Path
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda _: 300 << 20)
    report = await examine(config_for(quick_models, tmp_path))
    assert report.disk_free_mb == 300
    (warning,) = report.warnings
    assert "has 236 MiB of disk for jobs" in warning
    assert report.problems == []
    assert f"WARNING: {warning}" in as_text(report)
