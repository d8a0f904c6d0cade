"""`upscaled cluster`: shows members and queue, drains workers, and moves jobs between one machine
and a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upscaled import serial
from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.server.roles import check_cluster


async def show_status(config: Config, *, as_json: bool) -> int:
    """Print the members and the queue of the cluster; status 1 without a worker.

    Raises:
        ConfigError: the settings name no cluster.
        StoreUnavailableError: the database does not answer.
    """
    check_cluster(config)
    from upscaled.cluster import overview  # noqa: PLC0415 - needs the packages of a cluster
    from upscaled.jobs.postgres_database import Database  # noqa: PLC0415

    database = Database(config.cluster.database_url, size=1)
    await database.open()
    try:
        found = await database.run(lambda c: overview.look(c, config.cluster.lease_seconds))
    finally:
        await database.close()
    print(serial.encode(found).decode() if as_json else "\n".join(_lines(found)))
    return 0 if any(one.member.role == "worker" for one in found.members) else 1


def _lines(found: object) -> Iterator[str]:
    from upscaled.cluster.overview import Overview  # noqa: PLC0415

    assert isinstance(found, Overview)  # noqa: S101
    for role, title in (("server", "API servers"), ("worker", "Workers")):
        those = [one for one in found.members if one.member.role == role]
        yield f"{title}: {len(those) or 'none'}"
        for one in those:
            member = one.member
            facts = [f"on {member.host}", f"version {member.version}"]
            if role == "worker":
                facts += [", ".join(member.devices) or "no device yet", member.state]
                jobs = f"1 job of {member.slots}" if len(member.jobs) == 1 else (
                    f"{len(member.jobs)} jobs of {member.slots}"
                )  # fmt: skip
                facts += [f"{jobs}: {', '.join(member.jobs)}" if member.jobs else "idle"]
                if member.helps:
                    facts.append(f"helps with {', '.join(member.helps)}")
            if one.draining:
                facts.append("draining")
            facts.append(f"heard {one.silent_seconds:.1f} s ago")
            yield f"  {member.id}: {'; '.join(facts)}"
    oldest = f", the oldest for {found.oldest_seconds:.0f} s" if found.queued else ""
    yield f"Jobs: {found.queued} waiting{oldest}; {found.processing} being done"
    for model in found.without_worker:
        yield f"No worker has the model {model}, which a waiting job needs: install it on one."
    yield f"Webhook messages that wait: {found.pending_messages}"


async def import_folder(config: Config, folder: Path) -> int:
    """Move the jobs of one machine into the cluster.

    Raises:
        ConfigError: the settings name no cluster, or the folder can't be moved.
        StoreUnavailableError: database or blobs don't answer.
    """
    check_cluster(config)
    from upscaled.cluster.importing import FolderImport  # noqa: PLC0415
    from upscaled.cluster.link import Link  # noqa: PLC0415

    link = Link(config)
    await link.open()
    try:
        fair = config.limits.scheduling == "fair"
        moved = await FolderImport(link, folder, fair=fair).run()
    finally:
        await link.close()
    print("\n".join([*moved.lines(), f"The files in {folder} are no longer needed."]))
    return 0


async def export_folder(config: Config, folder: Path) -> int:
    """Move the jobs of a cluster into the data folder of one machine.

    Raises:
        ConfigError: the settings name no cluster, members of it run, or the folder has jobs.
        StoreUnavailableError: database or blobs don't answer.
    """
    check_cluster(config)
    from upscaled.cluster.exporting import FolderExport  # noqa: PLC0415
    from upscaled.cluster.link import Link  # noqa: PLC0415

    link = Link(config)
    await link.open()
    try:
        moved = await FolderExport(link, folder, config.cluster.lease_seconds).run()
    finally:
        await link.close()
    print("\n".join([*moved.lines(),
                     f"Run `upscaled serve` with storage.data_dir {folder}, and without the "
                     "section cluster."]))  # fmt: skip
    return 0


async def drain(config: Config, worker: str) -> int:
    """Ask a worker to finish its jobs and end.

    Raises:
        ConfigError: there is no worker of this name.
        StoreUnavailableError: the database does not answer.
    """
    check_cluster(config)
    from upscaled.cluster import members  # noqa: PLC0415
    from upscaled.jobs.postgres_database import Database  # noqa: PLC0415

    database = Database(config.cluster.database_url, size=1)
    await database.open()
    try:
        if not await database.run(lambda c: members.drain(c, worker)):
            raise ConfigError(
                f"There is no worker {worker!r}; `upscaled cluster status` names those there are."
            )
    finally:
        await database.close()
    print(f"{worker} takes no more jobs, and ends after the last one that it has.")
    return 0


async def grant(config: Config, servers: str, workers: str) -> int:
    """Let a role of the database be an API server, and another one a worker, and nothing more.

    Raises:
        ConfigError: the settings name no cluster, or no owner of its database; or there is no such
            role.
        StoreUnavailableError: the database does not answer.
    """
    check_cluster(config)
    from upscaled.cluster import grants  # noqa: PLC0415
    from upscaled.jobs.postgres_database import LONG_SECONDS, Database  # noqa: PLC0415

    if servers == workers:
        raise ConfigError("Name two roles; API servers and workers have different rights.")
    rights = {servers: grants.SERVER, workers: grants.WORKER}
    database = Database(config.cluster.database_url, size=1)
    await database.open()
    try:
        await database.run(lambda c: grants.grant(c, rights), seconds=LONG_SECONDS)
    finally:
        await database.close()
    print(
        f"{servers} may be an API server and {workers} a worker. Name them in "
        "cluster.database_url, and run this again after each upgrade."
    )
    return 0
