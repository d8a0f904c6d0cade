"""Metadata: reads it from an upload and writes it to the result."""
