"""How often work is tried whose process dies. Every stage of a job has this bound."""

from __future__ import annotations

TRIES = 3
"""How often the same work is tried, if its process is killed or crashes each time."""
PAUSE_SECONDS = 0.5
"""Before it is tried again: if memory ran out, others may have freed some by then."""
