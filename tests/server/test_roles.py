"""Which processes the settings ask for, and what they are told where they contradict each other."""

from __future__ import annotations

import dataclasses

import pytest

from upscaled.config.cluster_settings import ClusterSettings
from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.server.roles import check_cluster


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        (
            ClusterSettings(),
            "This command is for a cluster, and cluster.database_url is empty; name the PostgreSQL "
            "database and the blobs (docs/scaling.md).",
        ),
        (
            ClusterSettings(database_url="postgresql://db/upscaled"),
            "cluster.database_url is set and cluster.blobs is empty; a cluster needs both, one "
            "machine neither.",
        ),
        (
            ClusterSettings(blobs="/srv/blobs"),
            "cluster.blobs is set and cluster.database_url is empty; a cluster needs both, one "
            "machine neither.",
        ),
        (
            ClusterSettings(database_url="postgresql://db/upscaled", blobs="/srv/blobs"),
            "storage.result_cache_mb is 100 and cluster.database_url is set; in a cluster it must "
            "be 0.",
        ),
    ],
)
def test_what_is_no_cluster_is_told(cluster: ClusterSettings, sentence: str) -> None:
    config = Config()
    storage = dataclasses.replace(config.storage, result_cache_mb=100)
    with pytest.raises(ConfigError) as caught:
        check_cluster(dataclasses.replace(config, storage=storage, cluster=cluster))
    assert str(caught.value) == sentence
