import os
from pathlib import Path

import pytest

from upscaled.errors import ConfigError, NoSpaceError
from upscaled.jobs.job import new_job_id
from upscaled.jobs.workspace import Workspace


async def test_an_upload_moves_into_its_jobs_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "data")
    await workspace.open()
    upload, job_id = workspace.new_upload(), new_job_id()
    upload.write_bytes(b"picture")
    await workspace.adopt(upload, job_id)
    assert not upload.exists()
    assert workspace.upload_of(job_id).read_bytes() == b"picture"
    workspace.close()


async def test_opening_clears_uploads_that_never_became_jobs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    await workspace.open()
    upload = workspace.new_upload()
    upload.write_bytes(b"half")
    workspace.close()
    await workspace.open()
    assert not upload.exists()
    workspace.close()


async def test_sweeping_deletes_only_folders_of_unknown_jobs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    await workspace.open()
    known, unknown = new_job_id(), new_job_id()
    for job_id in (known, unknown):
        workspace.folder(job_id).mkdir()
        (workspace.folder(job_id) / "upload").touch()
    assert await workspace.sweep({known}) == 1
    assert workspace.folder(known).exists()
    assert not workspace.folder(unknown).exists()
    workspace.close()


async def test_keeping_one_file_deletes_all_others(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    await workspace.open()
    folder = workspace.folder(new_job_id())
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").touch()
    (folder / "upload").touch()
    (folder / "result.png").touch()
    await workspace.keep_only(folder.name, "result.png")
    assert [path.name for path in folder.iterdir()] == ["result.png"]
    workspace.close()


@pytest.mark.parametrize("name", ["..", "../x", "", "a/b", "1" * 18])
async def test_only_a_job_id_names_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        Workspace(tmp_path).folder(name)


async def test_two_services_cannot_share_a_data_folder(tmp_path: Path) -> None:
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    await first.open()
    with pytest.raises(ConfigError, match="another upscaled process"):
        await second.open()
    first.close()
    await second.open()
    second.close()


async def test_a_data_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"storage.data_dir is '.*file/data'; it must be"):
        await Workspace(tmp_path / "file" / "data").open()


async def test_an_upload_that_vanished_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    await workspace.open()
    job_id = new_job_id()
    with pytest.raises(NoSpaceError, match="can't be stored"):
        await workspace.adopt(workspace.new_upload(), job_id)
    assert not workspace.folder(job_id).exists()
    assert (
        await workspace.free_bytes()
        <= os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks
    )
    workspace.close()


def _mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


async def test_a_data_folder_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    (data / "jobs").mkdir()
    (data / "jobs").chmod(0o775)
    workspace = Workspace(data)
    await workspace.open()
    workspace.close()
    assert {_mode(data), _mode(data / "jobs"), _mode(data / "incoming")} == {"0o700"}
    assert _mode(data / "lock") == "0o600"


async def test_a_folder_that_cannot_be_deleted_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, job_id = Workspace(tmp_path), new_job_id()
    await workspace.open()
    upload = workspace.new_upload()
    upload.write_bytes(b"x")
    await workspace.adopt(upload, job_id)

    def no_descriptors(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", no_descriptors)
        await workspace.remove(job_id)
    assert workspace.folder(job_id).exists()
    await workspace.remove_leftovers()
    assert not workspace.folder(job_id).exists()
    assert not workspace._leftovers
    workspace.close()
