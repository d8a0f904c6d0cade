"""Requests that are repeated: with growing pauses, and not before ``Retry-After``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from upscaled.client.errors import (
    BusyError,
    ClientError,
    FieldRefusedError,
    UnexpectedAnswerError,
    UnreachableError,
    refusal,
)

_random = SystemRandom()
"""Not the generator that a program may have seeded: its processes would all pause alike."""
_AGAIN = frozenset({408, 409, 425, 429, 502, 503, 504})
"""Temporary statuses; 409 only with ``Retry-After``: the same request is being handled."""
_PREFIX = "/api/v1"
_MOST_BYTES = 16 << 20
"""Largest answer in JSON; a page of 200 jobs has less than 1 MiB."""
_PAGE = 200
"""Rows of a list that are asked for at a time."""
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)


@dataclass(frozen=True)
class Retries:
    """How long a request is repeated.

    Pauses double from ``first_seconds`` up to ``longest_seconds``, each shortened by up to a half
    at random, so that many callers do not come back together.
    """

    total_seconds: float = 120.0
    """Since the first attempt or, in downloads, since the last byte; 0: never repeat."""
    first_seconds: float = 0.5
    longest_seconds: float = 20.0

    def begin(self) -> Pauses:
        """Return the pauses of one request."""
        return Pauses(self)


class Pauses:
    """The pauses between the attempts of one request."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self.reset()

    def reset(self) -> None:
        """Start from the beginning, since there was progress."""
        self._next = self._retries.first_seconds
        self._until = time.monotonic() + self._retries.total_seconds

    async def before_next(self, error: ClientError) -> None:
        """Wait until the next attempt.

        Args:
            error: what the last one ended with; raised if the time is over, or would be when the
                server wants to be asked again.
        """
        pause = self._next * _random.uniform(0.5, 1)
        self._next = min(self._retries.longest_seconds, 2 * self._next)
        if isinstance(error, BusyError) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        if time.monotonic() + pause > self._until:
            raise error
        await asyncio.sleep(pause)


class Transport:
    """Sends requests to one server.

    Args:
        url: the server's address, with or without ``/api/v1``.
        token: its token, if it needs one.
        retries: how long requests are repeated.
        silence_seconds: an answer that brings nothing for so long counts as broken off.
    """

    def __init__(
        self, url: str, token: str | None, retries: Retries, silence_seconds: float
    ) -> None:
        self.url = base_url(url)
        self.retries = retries
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=20, sock_read=silence_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextlib.asynccontextmanager
    async def attempt(
        self, method: str, path: str, *, also: Collection[int] = (), **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once; the answer's status is below 300, or one of ``also``.

        Raises:
            UnreachableError: no answer, or it was broken off inside the block.
            RefusedError: the server refused it.
            UnexpectedAnswerError: what answers is no upscaled server.
        """
        if self._session is None:
            # As many connections as there are requests: the caller bounds them.
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                trust_env=True,
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=0),
            )
        try:
            async with self._session.request(
                method, self.url + path, allow_redirects=False, **options
            ) as response:
                if response.status >= 300 and response.status not in also:
                    raise await _refusal_of(response)
                yield response
        except aiohttp.InvalidURL:
            raise UnexpectedAnswerError(f"{self.url} is no address of a server.") from None
        except _BROKEN as error:
            reason = str(error) or "no answer in time"
            raise UnreachableError(f"{self.url} can't be reached ({reason}).") from error

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, repeat it where that can help, and return the answer's JSON.

        Raises:
            ClientError: see `attempt`.
        """

        async def once() -> Any:
            async with self.attempt(method, path, **options) as response:
                return await json_of(response)

        return await self.repeated(once)

    def not_upscaled(self) -> UnexpectedAnswerError:
        """Return the error about answers of something else."""
        return _not_upscaled(self.url)

    async def listed(
        self, path: str, rows: str, params: Mapping[str, str] | None = None
    ) -> AsyncIterator[Any]:
        """Yield the rows of a list that is answered page by page.

        Args:
            path: the endpoint.
            rows: the answer's field that has them.
            params: of the first request.

        Raises:
            ClientError: see `attempt`.
        """
        wanted = {"limit": str(_PAGE), **(params or {})}
        while True:
            page = await self.json("GET", path, params=wanted)
            for row in page[rows]:
                yield row
            if "next_cursor" not in page:
                return
            wanted["cursor"] = page["next_cursor"]

    async def repeated(self, once: Callable[[], Awaitable[Any]]) -> Any:
        """Call ``once`` until it succeeds or another attempt would not help.

        Raises:
            ClientError: what the last attempt ended with.
        """
        pauses = self.retries.begin()
        while True:
            try:
                return await once()
            except ClientError as error:
                if not is_temporary(error):
                    raise
                await pauses.before_next(error)


def is_temporary(error: ClientError) -> bool:
    """Tell whether the same request may succeed later."""
    if isinstance(error, UnreachableError):
        return True
    status = getattr(error, "status", 0)
    if status == 409:
        return getattr(error, "retry_after", None) is not None
    return status in _AGAIN


def base_url(url: str) -> str:
    """Return where the endpoints are: ``url``, with the usual prefix if it has no path.

    Raises:
        FieldRefusedError: it is no http address.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise FieldRefusedError(
            f"The server's address is {url!r}; it must be one such as http://127.0.0.1:8089.",
            code="bad_request",
            status=400,
        )
    stripped = url.rstrip("/")
    return stripped + (_PREFIX if parts.path in {"", "/"} else "")


async def json_of(response: aiohttp.ClientResponse) -> Any:
    """Return the JSON of an answer; None if it has no content.

    Raises:
        UnexpectedAnswerError: it has other content.
    """
    if response.status == 204:
        return None
    content = await response.content.read(_MOST_BYTES)
    while not response.content.at_eof() and len(content) < _MOST_BYTES:
        content += await response.content.read(_MOST_BYTES - len(content))
    try:
        return json.loads(content)
    except ValueError:
        raise _not_upscaled(str(response.url)) from None


def _not_upscaled(url: str) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"{url} does not answer as an upscaled server does; check the address."
    )


async def _refusal_of(response: aiohttp.ClientResponse) -> ClientError:
    """Return the error for an answer of 300 and more."""
    if response.status < 400:
        return UnexpectedAnswerError(
            f"The server redirects to {response.headers.get('Location', '?')}; use that address."
        )
    try:
        content = await json_of(response)
        message, code = str(content["error"]), str(content["code"])
    except (UnexpectedAnswerError, KeyError, TypeError):
        # Not from an upscaled server: from a proxy in front of it, or from something else.
        message = f"{response.url.origin()} answers {response.status} {response.reason or ''}"
        message, code = message.rstrip() + ".", "unexpected_answer"
        if response.status == 413:
            code = "too_large"
            message += " The picture is larger than a proxy in front of the server lets through."
    return refusal(
        message,
        code=code,
        status=response.status,
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def _seconds(header: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, a number or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
