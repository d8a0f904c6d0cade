"""An outgoing request's destination, taken from an address that a caller wrote."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

from yarl import URL

from upscaled.outgoing.addresses import HOST_NAME, Address
from upscaled.outgoing.errors import AddressRefusedError

LONGEST_URL = 4096
"""Characters. Signed addresses of object stores have about 1,500."""
_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?")
"""No name ends in a number. The C library takes these for IPv4 addresses: decimal, octal and
hexadecimal, in 1 to 4 parts."""


@dataclass(frozen=True)
class Destination:
    """Where a request goes to."""

    url: URL
    """Exactly this object is given to the HTTP client, so that nothing is parsed twice."""
    host: str
    """A name in lower case, or an address in its usual form."""
    address: Address | None
    """The address, where the host is one."""
    port: int


def origin_of(text: str) -> str:
    """Return scheme, host and port of an address, as they were written."""
    return "/".join(text.split("/", 3)[:3]).partition("?")[0].partition("#")[0].lower()


def parse(text: str, ports: Collection[int]) -> Destination:
    """Return the destination that ``text`` means.

    Args:
        text: an absolute http or https address.
        ports: allowed ports; empty: any.

    Raises:
        AddressRefusedError: it is not such an address, or has a user name or another port.
    """
    if len(text) > LONGEST_URL:
        raise AddressRefusedError(f"The address is longer than {LONGEST_URL} characters.")
    if not text.isprintable() or any(c.isspace() or c == "\\" for c in text):
        raise AddressRefusedError(
            "The address has blanks, backslashes or control characters; encode them."
        )
    authority = re.match("https?://([^/?#]*)", text, re.IGNORECASE)
    if authority is None:
        raise AddressRefusedError("The address must start with http:// or https://.")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError:
        raise AddressRefusedError(
            "The address can't be understood; write it as https://host/path."
        ) from None
    if url.raw_user is not None or url.raw_password is not None or "@" in authority[1]:
        raise AddressRefusedError("The address has a user name or password; leave it out.")
    if not host or port is None:
        raise AddressRefusedError("The address has no host; write it as https://host/path.")
    if port == 0 or (ports and port not in ports):
        allowed = ", ".join(str(number) for number in sorted(ports)) or "1 to 65535"
        raise AddressRefusedError(
            f"The address has port {port}; the server connects to {allowed} only (outgoing.ports)."
        )
    address = _address(host)
    if address is not None:
        # In its usual form, whatever notation it came in.
        return Destination(
            url.with_host(str(address)).with_port(port).with_fragment(None),
            str(address),
            address,
            port,
        )
    if not HOST_NAME.fullmatch(host) or "[" in authority[1]:
        raise AddressRefusedError(f"The host {host[:64]!r} is not a valid name.")
    return Destination(url.with_fragment(None), host, None, port)


def _address(host: str) -> Address | None:
    """Return the address that ``host`` is, in whichever notation; None: it is a name.

    Raises:
        AddressRefusedError: it looks like an address but is none.
    """
    if ":" in host:
        try:
            found = ipaddress.IPv6Address(host)
        except ValueError:
            found = None
        if found is None or found.scope_id is not None:
            raise AddressRefusedError(f"The host {host[:64]!r} is not a valid IPv6 address.")
        return found
    if _NUMERIC.fullmatch(host):
        try:
            # As the C library would read it: 127.1, 0x7f.1, 017700000001, 2130706433.
            return ipaddress.IPv4Address(socket.inet_aton(host.removesuffix(".")))
        except OSError:
            raise AddressRefusedError(
                f"The host {host[:64]!r} is not a valid IPv4 address."
            ) from None
    return None
