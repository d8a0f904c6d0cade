"""Which waiting jobs a worker prefers: those whose network it has loaded, within `STRETCH`.

As on one machine, a job whose network must be loaded first counts as ``STRETCH`` times the loading
time later than its start tag. So the job that is first in order can be overtaken only by jobs whose
tags are at most that much later; and a worker that has done that much work ahead of others takes
the first one, whatever it has loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from upscaled.jobs.order import STRETCH, LoadedModels


class Preference:
    """What one worker prefers.

    Args:
        loaded: the networks that it has loaded, or will have when it has done what it took.
    """

    def __init__(self, loaded: LoadedModels) -> None:
        self._loaded = loaded
        self._ahead = 0.0
        """Seconds of work taken ahead of others since a network was loaded for the first one."""

    def has(self, networks: Mapping[str, float]) -> bool:
        """Tell whether one of these networks is loaded."""
        return any(network in self._loaded for network in networks)

    def delays(self, models: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return by how many virtual seconds jobs of each model count as later than their tags.

        Args:
            models: by name, how many seconds it takes to load each network of a model.
        """
        # The queue knows a job's model, not which of its networks it needs.
        return {
            name: 0.0
            if self.has(networks) or not networks
            else max(0.0, STRETCH * max(networks.values()) - self._ahead)
            for name, networks in models.items()
        }

    def took(self, network: str, seconds: float, *, ahead: bool) -> None:
        """Record that the worker took a job.

        Args:
            network: what the job needs.
            seconds: the job's work.
            ahead: it went ahead of the job that was first in order.
        """
        changed = self._loaded.use(network)
        if ahead:
            self._ahead += seconds
        elif changed:
            self._ahead = 0.0
