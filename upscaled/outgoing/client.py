"""The HTTP client of every request that leaves this machine."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yarl import URL

from upscaled.outgoing.addresses import Address, AddressRules
from upscaled.outgoing.destination import Destination, parse
from upscaled.outgoing.errors import (
    AddressRefusedError,
    ForbiddenAddressError,
    HostUnreachableError,
    NoAnswerError,
)
from upscaled.outgoing.lookup import Lookup, SystemLookup

if TYPE_CHECKING:
    import aiohttp

MOST_REDIRECTS = 5
SAME_METHOD = frozenset({307, 308})
"""Redirects that keep method and body."""
TO_GET = frozenset({301, 302, 303}) | SAME_METHOD
"""Redirects that a GET may follow."""
_MOST_ADDRESSES = 16
"""Of a name; further ones are neither checked nor connected to."""


@dataclass(frozen=True)
class _Checked:
    """A destination and the addresses that a socket for it may connect to."""

    destination: Destination
    addresses: tuple[Address, ...]


class OutgoingClient:
    """Makes requests to other machines, as far as the rules allow.

    A name is resolved once. Every address it has must be allowed, and the socket can connect to
    these addresses only, whatever the name resolves to later. TLS verifies the name. Redirects are
    followed one by one, each checked like the first address. Cookies, proxies and passwords of the
    environment are not used.

    Args:
        rules: the addresses that may be connected to.
        ports: the ports that may be; empty: any.
        lookup: resolves names; None: the system does.
        tls: the trusted authorities; None: the system's.
    """

    def __init__(
        self,
        rules: AddressRules,
        ports: Collection[int] = (),
        *,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._ports = frozenset(ports)
        self._lookup = lookup or SystemLookup()
        self._tls = tls

    def parse(self, url: str) -> Destination:
        """Return where a request to ``url`` would go to, without resolving a name.

        Raises:
            AddressRefusedError: it may not.
        """
        destination = parse(url, self._ports)
        if destination.address is not None:
            self._check(destination, [destination.address])
        return destination

    async def check(self, url: str, seconds: float) -> Destination:
        """Return where a request to ``url`` would go to. A name that can't be resolved passes.

        Raises:
            AddressRefusedError: it may not.
        """
        destination = self.parse(url)
        with contextlib.suppress(HostUnreachableError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self._resolve(destination)
        return destination

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        seconds: float,
        follow: Collection[int] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request; the block has its response, and ends the connection.

        The body comes as it is on the wire: the block bounds how much of it is read.

        Args:
            method: such as ``GET``.
            url: the absolute address.
            seconds: for everything, reading the body included.
            follow: statuses of redirects that are followed, `MOST_REDIRECTS` at the most.
            headers: further headers.
            body: what is sent.

        Raises:
            AddressRefusedError: the address, or that of a redirect, is not allowed.
            HostUnreachableError: there is no connection, or it broke off.
            NoAnswerError: the time is over.
        """
        from upscaled.outgoing import connection  # noqa: PLC0415 - slow to load, seldom needed

        try:
            with connection.failures():
                async with asyncio.timeout(seconds) as scope, contextlib.AsyncExitStack() as hop:
                    for _ in range(MOST_REDIRECTS + 1):
                        checked = await self._resolve(self.parse(url))
                        session = await hop.enter_async_context(
                            connection.session(checked.addresses, self._tls)
                        )
                        response = await hop.enter_async_context(
                            session.request(
                                method,
                                checked.destination.url,
                                headers=dict(headers or {}),
                                data=body,
                                allow_redirects=False,
                            )
                        )
                        if response.status not in follow or "Location" not in response.headers:
                            yield response
                            return
                        url = _next(checked.destination.url, response.headers["Location"])
                        await hop.aclose()
                raise AddressRefusedError(
                    f"The address redirects more than {MOST_REDIRECTS} times."
                )
        except ForbiddenAddressError as error:
            raise _forbidden(url) from error
        except TimeoutError as error:
            if not scope.expired():
                raise  # somebody else's
            raise NoAnswerError(f"There was no complete answer within {seconds:g} s.") from error

    async def _resolve(self, destination: Destination) -> _Checked:
        """Return the addresses of a destination, all of them allowed.

        Raises:
            AddressRefusedError: one of them is not.
            HostUnreachableError: it has none.
        """
        if destination.address is not None:
            return _Checked(destination, (destination.address,))
        try:
            texts = await self._lookup(destination.host)
            found = [ipaddress.ip_address(text) for text in list(texts)[:_MOST_ADDRESSES]]
        except (OSError, UnicodeError, ValueError) as error:
            raise HostUnreachableError("The name of its host can't be resolved.") from error
        if not found:
            raise HostUnreachableError("The name of its host can't be resolved.")
        return self._check(destination, found)

    def _check(self, destination: Destination, found: list[Address]) -> _Checked:
        if not all(self._rules.allows(address, destination.host) for address in found):
            raise _forbidden(destination.host)
        return _Checked(destination, tuple(found))


def _forbidden(host: str) -> AddressRefusedError:
    return AddressRefusedError(
        f"{host[:64]} is no public address; the server's operator can allow it in outgoing.allow."
    )


def _next(before: URL, location: str) -> str:
    """Return the absolute address of a redirect.

    Raises:
        AddressRefusedError: it is invalid, or leads from https to http.
    """
    try:
        url = str(before.join(URL(location)))
    except ValueError:
        raise AddressRefusedError(
            "The address redirects to one that can't be understood."
        ) from None
    if before.scheme == "https" and not url.lower().startswith("https:"):
        raise AddressRefusedError("The address redirects from https to an insecure address.")
    return url
