"""Why a request to another machine was not made or failed."""

from __future__ import annotations


class OutgoingError(Exception):
    """A request to another machine failed; the message is a sentence that callers may see.

    It never contains an address that a name was resolved to, since that could be internal.
    """


class AddressRefusedError(OutgoingError):
    """The address is not one that this server may connect to."""


class HostUnreachableError(OutgoingError):
    """The other machine could not be found or connected to, or broke off."""


class NoAnswerError(OutgoingError):
    """The other machine did not answer in time."""


class ForbiddenAddressError(OSError):
    """The HTTP client wanted a socket to an address that was not checked."""
