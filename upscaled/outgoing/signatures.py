"""Signatures of messages, as Standard Webhooks defines them (standardwebhooks.com, version 1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
"""Lengths of keys that the specification allows."""


def keys_of(text: str) -> tuple[bytes, ...]:
    """Return the keys of one or more secrets that are separated by blanks, in their order.

    Raises:
        ValueError: one is not ``whsec_`` and 24 to 64 bytes in base64.
    """
    found = []
    for secret in text.split():
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error as error:
            raise ValueError("no base64") from error
        if not secret.startswith(PREFIX) or len(key) not in _KEY_BYTES:
            raise ValueError("no secret")
        found.append(key)
    return tuple(found)


def headers(
    keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """Return the headers of one attempt at a message.

    Args:
        keys: the receiver accepts the message if it knows one of them; none: it is not signed.
        message_id: the same for each attempt.
        timestamp: of this attempt, in seconds since the epoch.
        body: the message.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    signatures = [
        "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in keys
    ]
    found = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if signatures:
        found["webhook-signature"] = " ".join(signatures)
    return found
