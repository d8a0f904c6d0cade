"""Band sharing: both sides of one picture on several workers, as a worker has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from upscaled.blobs.blobs import Blobs
from upscaled.cluster.band_help import BandHelp
from upscaled.cluster.lending import Lending
from upscaled.cluster.members import Member
from upscaled.cluster.work_queue import Lease
from upscaled.engines.pool import Place
from upscaled.imaging import Imaging
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.service.processing import Processing


class BandSharing:
    """Lets others do bands of this worker's pictures, and does bands of theirs.

    Args:
        database: where offers are.
        blobs: where the rows of bands go.
        workspace: the worker's own.
        imaging: decodes and compares.
        models: the installed models.
        worker: returns the worker's number.
        others: returns the other workers that are running.
        lease_of: returns the lease under which the worker has a job; None: it has none.
        lease_seconds: how long a worker may be silent.
        on_end: called when a device that helped is idle again.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        workspace: Workspace,
        imaging: Imaging,
        models: ModelCatalog,
        *,
        worker: Callable[[], int],
        others: Callable[[], Iterable[Member]],
        lease_of: Callable[[str], Lease | None],
        lease_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        self.lending = Lending(database, blobs, others, lease_of, lease_seconds)
        self.help = BandHelp(
            database,
            blobs,
            workspace,
            imaging,
            models,
            worker=worker,
            lease_seconds=lease_seconds,
            on_end=on_end,
        )

    def open(self, parts: Processing, pixel_keys: Mapping[Place, str]) -> None:
        """Begin to share.

        Args:
            parts: those that do jobs.
            pixel_keys: see `upscaled.engines.pixel_key`.
        """
        digests = {
            place: hashlib.sha256(key.encode()).hexdigest() for place, key in pixel_keys.items()
        }
        self.lending.pixel_keys = digests
        self.help.open(parts.pipeline, parts.pool, digests)

    @property
    def pixel_keys(self) -> tuple[str, ...]:
        """What the bytes of each device depend on, as digests."""
        return tuple(self.lending.pixel_keys.values())

    @property
    def is_helped(self) -> bool:
        """Whether others do bands of this worker's pictures, or could now."""
        return bool(self.lending.lent)

    async def ended(self) -> None:
        """Wait until the offers of pictures that are done are withdrawn."""
        await self.lending.ended()
