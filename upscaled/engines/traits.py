"""What distinguishes the engines: one row each, so that nothing else compares their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class EngineTraits:
    """The properties of an engine that scheduling, estimates and receipts depend on."""

    name: str
    """As in the setting ``upscaler.engine``, the API and receipts."""
    models_kept: int
    """Models that stay loaded from job to job, the least recently used goes first; 0: each job
    loads its own."""
    startup_seconds: float
    """First guess of a job's fixed time, with the model loaded if possible."""
    default_tile: int
    """The tile side that it chooses in most cases; 0: `tile_plan` tells."""
    has_memory_limit: bool
    """Whether its processes share ``upscaler.memory_limit_mb``."""
    runs_on_cpu: bool
    """Whether it can work without a GPU."""

    @property
    def keeps_models(self) -> bool:
        """Whether loading a model is not part of every job."""
        return self.models_kept > 0


BUILTIN = EngineTraits(
    name="builtin",
    models_kept=3,
    startup_seconds=0.02,
    default_tile=0,
    has_memory_limit=True,
    runs_on_cpu=True,
)
BINARY = EngineTraits(
    name="binary",
    models_kept=0,
    # Starts the native program, finds the devices and loads the model.
    startup_seconds=2.0,
    # The native programs' choice on a GPU with more than 1.9 GB of memory.
    default_tile=200,
    has_memory_limit=False,
    runs_on_cpu=False,
)

ENGINES: Mapping[str, EngineTraits] = MappingProxyType(
    {traits.name: traits for traits in (BUILTIN, BINARY)}
)
"""All engines by name."""
