"""Connections to other machines, which reach only addresses that were checked."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from upscaled import __version__
from upscaled.outgoing.addresses import Address
from upscaled.outgoing.errors import ForbiddenAddressError, HostUnreachableError, NoAnswerError

_CONNECT_SECONDS = 10.0


def session(addresses: tuple[Address, ...], tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """Return a session whose connections go to these addresses only.

    Args:
        addresses: whatever the name resolves to.
        tls: the trusted authorities; None: the system's.
    """
    connector = aiohttp.TCPConnector(
        resolver=_Pinned(addresses),
        use_dns_cache=False,
        socket_factory=lambda info: _socket_to(addresses, info),
        force_close=True,
        ssl=tls or True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        headers={"User-Agent": f"upscaled/{__version__}", "Accept-Encoding": "identity"},
    )


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn the HTTP client's errors into those of this package.

    Raises:
        ForbiddenAddressError: it wanted an address that was not checked.
        HostUnreachableError: there is no connection, or it broke off.
        NoAnswerError: no connection is accepted.
    """
    try:
        yield
    except aiohttp.ServerTimeoutError as error:
        raise NoAnswerError(
            f"It did not accept a connection within {_CONNECT_SECONDS:g} s."
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise HostUnreachableError("Its TLS certificate is not valid for this host.") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ForbiddenAddressError):
            raise error.os_error from error
        raise HostUnreachableError("There is no connection to its host.") from error
    except aiohttp.ClientError as error:
        raise HostUnreachableError("It broke off, or sent no valid HTTP.") from error


def _socket_to(
    addresses: tuple[Address, ...],
    info: tuple[int | socket.AddressFamily, int, int, str, tuple[object, ...]],
) -> socket.socket:
    """Return a socket for exactly the address that the HTTP client is about to connect to."""
    family, kind, protocol, _, target = info
    if ipaddress.ip_address(str(target[0])) not in addresses:
        raise ForbiddenAddressError(f"not checked: {target[0]}")
    return socket.socket(family, kind, protocol)


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked."""

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return them."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""
