"""A run's data does not lie on a disk of another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscaled.batch import work_folders
from upscaled.batch.work_folders import file_system, work_folder

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /mnt/nas rw,relatime shared:2 - nfs4 nas:/export rw
41 40 8:2 / /mnt/nas/local rw - xfs /dev/sdb1 rw
43 22 0:42 / /mnt/größe rw - fuse.sshfs nas: rw
42 22 0:41 / /mnt/the\040share rw - cifs //nas/share rw
""".lstrip()


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/home/me", "ext4"),
        ("/", "ext4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/deep/er", "nfs4"),
        ("/mnt/nasty", "ext4"),
        ("/mnt/nas/local/x", "xfs"),
        ("/mnt/the share/x", "cifs"),
        ("/mnt/größe/x", "fuse.sshfs"),
    ],
)
def test_the_mount_of_a_path_is_the_deepest_above_it(place: str, kind: str) -> None:
    assert file_system(Path(place), MOUNTS) == kind


def test_on_a_network_disk_the_work_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside = tmp_path / "out/.upscaled/work"
    monkeypatch.setattr(work_folders, "_MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(MOUNTS)
    assert work_folder(tmp_path / "out", beside) == beside
    network = MOUNTS + f"50 22 0:50 / {tmp_path.resolve()} rw - fuse.sshfs nas: rw\n"
    (tmp_path / "mounts").write_text(network)
    first = work_folder(tmp_path / "out", beside)
    assert first.parent == tmp_path / "cache/upscaled"
    assert work_folder(tmp_path / "other", beside) != first
    (tmp_path / "mounts").unlink()
    assert work_folder(tmp_path / "out", beside) == beside
