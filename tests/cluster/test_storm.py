"""A small storm over a whole cluster: nothing that callers were told is impossible."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testkit import network_namespace
from testkit.cluster import Cluster, healthy, running_cluster
from testkit.faulty_s3 import FaultyS3
from testkit.history import History
from testkit.network_namespace import network_namespaces
from testkit.postgres import PostgresServer
from testkit.storm import (
    BLOBS,
    CUTS,
    DATABASES,
    SERVERS,
    SETTINGS,
    WORKERS,
    Storm,
    pictures,
    weather,
)


async def test_whatever_fails_at_the_same_time_each_accepted_job_ends_once_with_its_picture(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks_too = await asyncio.to_thread(network_namespace.possible)
    shown = await pictures(tmp_path, models_dir, 6)
    with network_namespaces(1 if networks_too else 0) as networks:
        hosts = [network.host for network in networks]
        async with FaultyS3(host="0.0.0.0" if hosts else "127.0.0.1").running() as store:
            for name, value in store.environment().items():
                monkeypatch.setenv(name, value)
            made = Cluster(
                tmp_path,
                models_dir,
                settings=SETTINGS | {"cluster.blobs": store.url},
                postgres=PostgresServer(addresses=hosts),
                networks=networks,
                stores=store.environment,
            )
            async with running_cluster(made) as cluster:
                await healthy(cluster.servers[0].url, 3)
                turns = [WORKERS, DATABASES, *([CUTS] if networks else []), SERVERS]
                storm = Storm(cluster, store, pause=1, blob_seconds=8, turns=turns)
                history = History()
                async with asyncio.timeout(150):
                    wanted = await weather(cluster, storm, history, shown, 30)
    assert history.problems(wanted) == []
    assert storm.struck == dict.fromkeys(turns, 1) | {BLOBS: 8}
    assert len(wanted) >= 30
    assert sum(history.refusals.values()) > 0, "callers noticed"
