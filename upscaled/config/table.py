"""The table of settings: every field of every section, as rows."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from upscaled.config.archive_settings import ArchiveSettings
from upscaled.config.cluster_settings import ClusterSettings
from upscaled.config.server_settings import ServerSettings
from upscaled.config.settings import (
    FeatureSettings,
    LimitSettings,
    LoggingSettings,
    MetricsSettings,
    OutgoingSettings,
    StorageSettings,
    WebhookSettings,
)
from upscaled.config.types import Rule
from upscaled.config.upscaler_settings import UpscalerSettings

ENV_PREFIX = "UPSCALED_"


@dataclass(frozen=True)
class Setting:
    """One row of the table: ``key`` of ``section`` with type, default and rule."""

    section: str
    key: str
    type: Any
    default: Any
    rule: Rule

    @property
    def name(self) -> str:
        """``section.key``, as error messages and documents call it."""
        return f"{self.section}.{self.key}"

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return f"{ENV_PREFIX}{self.section}_{self.key}".upper()

    @property
    def former(self) -> Setting | None:
        """The same setting by the name that it had before."""
        key = self.rule.former
        return None if key is None else dataclasses.replace(self, key=key)


SECTIONS: Mapping[str, type] = {
    "server": ServerSettings,
    "upscaler": UpscalerSettings,
    "storage": StorageSettings,
    "limits": LimitSettings,
    "archives": ArchiveSettings,
    "outgoing": OutgoingSettings,
    "webhooks": WebhookSettings,
    "logging": LoggingSettings,
    "features": FeatureSettings,
    "metrics": MetricsSettings,
    "cluster": ClusterSettings,
}


def settings() -> Iterator[Setting]:
    """Yield every setting, in the order of the file."""
    for section, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            rule = cast(Rule, item.metadata["rule"])
            yield Setting(section, item.name, hints[item.name], item.default, rule)
