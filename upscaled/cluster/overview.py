"""The state of a cluster, for its operators."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.cluster import members
from upscaled.cluster.members import Seen
from upscaled.jobs.postgres_database import Connection


@dataclass(frozen=True)
class Overview:
    """Members and queue of a cluster at a moment."""

    members: tuple[Seen, ...]
    queued: int
    processing: int
    oldest_seconds: float
    """Age of the job that waits longest; 0 if none waits."""
    without_worker: tuple[str, ...]
    """Models that waiting jobs need but no worker has."""
    pending_messages: int
    """Webhook messages that are not delivered yet."""


async def look(connection: Connection, lease_seconds: float) -> Overview:
    """Return the state of the cluster."""
    there = await members.present(connection, lease_seconds)
    found = await connection.execute(
        "SELECT count(*) FILTER (WHERE state = 'queued'), "
        "count(*) FILTER (WHERE state = 'processing'), coalesce(max(extract(epoch FROM now()) - "
        "created) FILTER (WHERE state = 'queued'), 0)::float8 "
        "FROM jobs WHERE state IN ('queued', 'processing')"
    )
    queued, processing, oldest = await found.fetchone() or (0, 0, 0.0)
    found = await connection.execute(
        "SELECT DISTINCT model FROM jobs WHERE state = 'queued' ORDER BY model"
    )
    offered = {name for one in there if not one.draining for name in one.member.models}
    lacking = tuple(str(name) for (name,) in await found.fetchall() if name not in offered)
    found = await connection.execute("SELECT count(*) FROM messages WHERE state = 'pending'")
    (pending,) = await found.fetchone() or (0,)
    return Overview(tuple(there), queued, processing, max(0.0, oldest), lacking, pending)
