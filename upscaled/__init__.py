"""upscaled: a self-hosted image upscaling service around Real-ESRGAN."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: worker processes, which start often, need none."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - slow to load

    globals()[name] = found = version("upscaled")
    return found
