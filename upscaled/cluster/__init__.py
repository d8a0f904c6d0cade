"""The same service on several machines: API servers and workers on PostgreSQL and shared blobs."""
