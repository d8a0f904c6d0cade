"""Idempotency keys: a submission that is sent again gets the first one's job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from upscaled.errors import BadRequestError, KeyInUseError, KeyReusedError
from upscaled.jobs.store import JobStore, SubmissionKey

KEY_CHARACTERS = 255
"""The longest idempotency key."""
_KEY = re.compile(rf"[\x21-\x7e](?:[\x20-\x7e]{{0,{KEY_CHARACTERS - 2}}}[\x21-\x7e])?")


def parse_key(values: Sequence[str]) -> str | None:
    """Return the key of a request's ``Idempotency-Key`` headers; None if it has none.

    Quotes around it are no part of it: RFC 8941 writes them, most clients do not.

    Raises:
        BadRequestError: it is empty or too long, has other characters than ASCII's printable ones,
            or there is more than one.
    """
    if not values:
        return None
    text = values[0].strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if len(values) > 1 or not _KEY.fullmatch(text):
        raise BadRequestError(
            "The header Idempotency-Key must come once, with 1 to "
            f"{KEY_CHARACTERS} printable ASCII characters, such as a UUID."
        )
    return text


@dataclass(frozen=True)
class KeyClaim:
    """A submission's hold on its key. While it lasts, no other submission gets the key."""

    owner: str
    key: str
    earlier: SubmissionKey | None
    """What an earlier submission recorded; None: this one is the first."""

    def check(self, fingerprint: str) -> None:
        """Check that this is a repetition of the earlier submission.

        Raises:
            KeyReusedError: it is another one.
        """
        if self.earlier is not None and self.earlier.fingerprint != fingerprint:
            raise KeyReusedError(
                "This Idempotency-Key belongs to an earlier request with another picture or other "
                "fields; send a new key with each new request."
            )

    def record(self, fingerprint: str, job_id: str) -> SubmissionKey:
        """Return the record to keep with this submission's job."""
        return SubmissionKey(self.owner, self.key, fingerprint, job_id, time.time())


def fingerprint(identity: str, fields: Mapping[str, str]) -> str:
    """Return a digest that is equal for repetitions of one request.

    Args:
        identity: the picture's digest, in hexadecimal, or its address.
        fields: as they were sent, without those that say how to answer.
    """
    content = [identity, sorted((name, value.strip()) for name, value in fields.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def key_in_use() -> KeyInUseError:
    """Return the error for a request whose key another one holds."""
    return KeyInUseError(
        "Another request with this Idempotency-Key is being received; send this one again in a "
        "second.",
        headers={"Retry-After": "1"},
    )


class IdempotencyKeys:
    """Gives keys to the submissions that are being received.

    Args:
        store: keeps the keys of accepted submissions.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._held: set[tuple[str, str]] = set()

    @contextlib.asynccontextmanager
    async def claim(self, owner: str, key: str | None) -> AsyncIterator[KeyClaim | None]:
        """Hold an owner's key for the length of the block; None without a key.

        Raises:
            KeyInUseError: another submission holds it.
        """
        if key is None:
            yield None
            return
        if (owner, key) in self._held:
            raise key_in_use()
        self._held.add((owner, key))
        try:
            yield KeyClaim(owner, key, await self._store.key(owner, key))
        finally:
            self._held.remove((owner, key))
