"""Worker facts: what a worker tells the other members about itself."""

from __future__ import annotations

from typing import Any

from upscaled.cluster.members import WORKER, Member, settings_of
from upscaled.config.settings import Config
from upscaled.models.catalog import ModelCatalog
from upscaled.service.processing import Processing


def describe(
    name: str, config: Config, models: ModelCatalog, parts: Processing | None, **facts: Any
) -> Member:
    """Return a worker as a member.

    Args:
        name: its name among the members.
        config: its settings.
        models: its models.
        parts: those that do its jobs; None while it starts.
        facts: further ones.
    """
    if parts is not None:
        devices, health = parts.choice.devices, parts.health
        facts |= {
            "engine": parts.choice.engine,
            "devices": tuple(device.name for device in devices),
            "gpu": any(device.is_gpu for device in devices),
            "slots": parts.pool.most_at_once,
            "busy_seconds": sum(parts.pool.busy_seconds().values()),
            "state": health.state.value,
            "reason": health.reason,
        }
    else:
        facts["state"] = "starting"
    return Member.of_this_process(
        name,
        WORKER,
        settings=settings_of(config, WORKER),
        models=tuple(model.name for model in models.models),
        **facts,
    )
