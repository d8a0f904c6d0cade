"""What is wrong with an archive."""

from __future__ import annotations

from upscaled.errors import UpscaledError


class NotAnArchiveError(UpscaledError):
    """The file is no archive of a supported format."""

    code = "unsupported_archive"
    status = 415


class UnusableArchiveError(UpscaledError):
    """An archive that is broken, encrypted, or has an entry that may be dangerous."""

    code = "unusable_archive"
    status = 422


class ArchiveTooLargeError(UpscaledError):
    """An archive with too many entries, or one that unpacks to too much."""

    code = "archive_too_large"
    status = 413
