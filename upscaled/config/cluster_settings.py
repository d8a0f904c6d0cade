"""Settings of a cluster: the same service on several machines."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.config.types import member_name
from upscaled.config.types import setting as _setting


@dataclass(frozen=True)
class ClusterSettings:
    """Several machines: API servers (`upscaled serve`) and workers (`upscaled work`)."""

    database_url: str = _setting(
        "",
        "PostgreSQL with the job records of all machines, such as "
        "postgresql://user@host/upscaled; several hosts and TLS as libpq takes them. Empty: one "
        "machine with its records in data_dir.",
    )
    blobs: str = _setting(
        "",
        "Where all machines keep uploads and results: a folder that all of them mount, or the "
        "address of an object store, such as s3://bucket/path, gs://… or az://…, whose credentials "
        "come from the environment.",
    )
    lease_seconds: float = _setting(
        30.0,
        "Seconds that a worker may be silent before its jobs are given to others.",
        minimum=1,
        maximum=3600,
    )
    name: str = _setting(
        "",
        "Name of this process in `upscaled cluster status`, unique in the cluster; empty: "
        "the host's name and the process id.",
        check=member_name,
    )

    @property
    def used(self) -> bool:
        """Whether this machine is one of a cluster."""
        return bool(self.database_url or self.blobs)
