"""Uploads in progress: their places in the queue and their bytes on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from upscaled.callers import Caller
from upscaled.errors import NoSpaceError, QueueFullError, mib_above
from upscaled.jobs.workspace import Workspace

_STEP_BYTES = 4 << 20
"""Bytes reserved at a time for an upload of unknown length."""
_FEWEST = 4
"""Uploads that one client may always have in progress, however short the queue is."""


class UploadsInProgress:
    """Reserves room for uploads before they are read.

    While a client has one upload in progress, its others may take at most half of the places and
    half of the free disk, so that no client can block all others.

    Args:
        workspace: where uploads are written.
        most: how many uploads may be in progress.
        reserve_bytes: what must stay free on the disk.
    """

    def __init__(self, workspace: Workspace, most: int, reserve_bytes: int) -> None:
        self._workspace = workspace
        self._most = most
        self._reserve_bytes = reserve_bytes
        self._uploads: set[Upload] = set()
        self.received_bytes = 0
        """Of all uploads so far."""
        self.queueing: Counter[str] = Counter()
        """Uploads that will become jobs, by client key."""

    def __len__(self) -> int:
        return sum(not upload.resting for upload in self._uploads)

    async def begin(self, client: Caller, length: int | None, *, queues: bool) -> Upload:
        """Reserve room for an upload.

        Args:
            client: the caller.
            length: in bytes, if the caller declares it.
            queues: it will become a job and takes a place in the queue.

        Raises:
            QueueFullError: the client has too many uploads in progress.
            NoSpaceError: the disk has no room for it.
        """
        own = sum(upload.client == client.key for upload in self._uploads)
        if own >= max(_FEWEST, self._most // 2):
            raise QueueFullError(
                f"You have {own} uploads in progress, as many as one client may; wait until one "
                "has ended.",
                headers={"Retry-After": "5"},
            )
        upload = Upload(self, self._workspace.new_upload(), client.key, queues)
        self._uploads.add(upload)
        if queues:
            self.queueing[client.key] += 1
        try:
            await upload.reserve(_STEP_BYTES if length is None else length)
        except BaseException:
            upload.end()
            raise
        return upload

    async def reserve(self, upload: Upload, count: int) -> None:
        """Reserve disk space for an upload.

        Raises:
            NoSpaceError: the disk does not have that many free.
        """
        taken = self._reserve_bytes + sum(other.outstanding for other in self._uploads)
        free = await self._workspace.free_bytes(taken + count) - taken
        own = sum(other.outstanding for other in self._uploads if other.client == upload.client)
        # `free + own` is what all of the client's uploads could have.
        alone = not any(
            other.client == upload.client for other in self._uploads if other is not upload
        )
        room = free if alone else min(free, (free + own) // 2 - own)
        if count > room:
            room = max(0, room)
            raise NoSpaceError(
                f"The server's disk has {room >> 20} MiB free for uploads, this one needs "
                f"{mib_above(count)} MiB; make room in storage.data_dir.",
                headers={"Retry-After": "60"},
                need=count,
                free=room,
            )
        upload.reserved += count

    def end(self, upload: Upload) -> None:
        """Release the room reserved for an upload."""
        if upload in self._uploads:
            self._uploads.remove(upload)
            if upload.queues:
                self.queueing[upload.client] -= 1
                self.queueing += Counter()  # removes the zeros


class Upload:
    """One upload in progress."""

    def __init__(self, all_: UploadsInProgress, path: Path, client: str, queues: bool) -> None:
        self._all = all_
        self.path = path
        """Where its picture is written."""
        self.client = client
        self.queues = queues
        self.resting = False
        """No request sends it now; it keeps its room."""
        self.reserved = 0
        self.written = 0

    @property
    def outstanding(self) -> int:
        """Bytes that are reserved but not yet on disk."""
        return max(0, self.reserved - self.written)

    async def reserve(self, count: int) -> None:
        """Reserve ``count`` more bytes of the disk.

        Raises:
            NoSpaceError: the disk does not have that many free.
        """
        await self._all.reserve(self, count)

    async def write(self, count: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            NoSpaceError: they exceed the reservation, and the disk has no room for them.
        """
        if self.written + count > self.reserved:
            await self.reserve(max(_STEP_BYTES, count))
        self.written += count
        self._all.received_bytes += count

    def end(self) -> None:
        """Release the reservation; may be called again."""
        self._all.end(self)
