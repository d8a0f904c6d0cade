"""A data folder that version 1.0.0 left in the middle of its work still works.

``tests/data/data-1.0.0.tar.gz`` was made by a server that was killed. What it holds stands in
``tests/data/data-1.0.0.json``.
"""

import asyncio
import hashlib
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.services import make_config, running, submit
from upscaled.errors import ResultGoneError
from upscaled.files import sha256_of
from upscaled.jobs.job import JobState
from upscaled.pipeline import checkpoint

ROWS_DONE = 96
"""Rows of the half-done picture that the earlier server had finished."""


async def test_a_data_folder_of_version_1_0_0_is_taken_up(
    tmp_path: Path,
    models_dir: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tarfile.open(DATA / "data-1.0.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    uploads = {}
    for upload in (tmp_path / "data" / "jobs").glob("*/upload"):
        uploads[upload.parent.name] = tmp_path / f"{upload.parent.name}.png"
        uploads[upload.parent.name].write_bytes(upload.read_bytes())
    # Another version does not use its checkpoints, since their bands may differ.
    monkeypatch.setattr(checkpoint, "__version__", "1.0.0")
    known = {job["what"]: job for job in json.loads((DATA / "data-1.0.0.json").read_text("utf-8"))}
    config = make_config(
        tmp_path / "data",
        models_dir,
        upscaler__cpu_library="ncnn",
        upscaler__gpu_ids="[-1]",
        storage__result_ttl_hours="876000",
        storage__record_ttl_hours="876000",
    )
    with caplog.at_level(logging.INFO):
        async with running(config) as service:
            found = {what: await service.jobs.wait(job["id"]) for what, job in known.items()}
            for what, job in known.items():
                if job["pixels_sha256"] is None:
                    continue
                assert found[what].state is JobState.COMPLETED, found[what].error
                result = await service.jobs.result(job["id"])
                digest = await asyncio.to_thread(sha256_of, result.path)
                if what.startswith("completed"):
                    assert digest == job["result_sha256"]
                else:
                    again = await submit(service, uploads[job["id"]], **job["fields"])
                    await service.jobs.wait(again.id)
                    anew = await service.jobs.result(again.id)
                    assert_as_recorded(result.path, anew.path, job["pixels_sha256"])
            with pytest.raises(ResultGoneError) as gone:
                await service.jobs.result(known["completed, result downloaded"]["id"])
            assert (gone.value.code, gone.value.status) == ("already_downloaded", 410)
    assert found["failed"].state is JobState.FAILED
    assert found["cancelled"].state is JobState.CANCELLED
    for what, job in known.items():
        assert (found[what].input_name, found[what].created) == (job["input_name"], job["created"])
    resumed = [record for record in caplog.records if record.getMessage() == "job goes on"]
    assert [vars(record)["rows"] for record in resumed] == [ROWS_DONE]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def assert_as_recorded(result: Path, anew: Path, digest: str) -> None:
    """The pixels are the recorded ones; on another processor, nearly those of a new job."""
    found = pixels(result)
    if hashlib.sha256(found.tobytes()).hexdigest() == digest:
        return
    difference = np.abs(found.astype(int) - pixels(anew))
    assert difference.mean() < 0.5
    assert difference.max() <= 16
