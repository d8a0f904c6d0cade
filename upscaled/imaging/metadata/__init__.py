"""Metadata: what an upload tells beside its pixels, and how a result tells it."""
