"""A DNS server for tests, and a lookup that asks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import cast

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

Zone = Mapping[str, Callable[[int], Collection[str]]]
"""The addresses of each name, by how often it was asked for before."""


class DnsServer(asyncio.DatagramProtocol):
    """Answers over UDP with time to live 0, so that each lookup can have another answer."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()
        """Questions by name and type."""
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the port."""
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question."""
        question = dns.message.from_wire(data)
        asked = question.question[0]
        name, kind = str(asked.name).rstrip("."), dns.rdatatype.to_text(asked.rdtype)
        times = self.asked[name, kind]
        self.asked[name, kind] += 1
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        if name not in self.zone:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif found := [
            text for text in self.zone[name](times) if (":" in text) == (kind == "AAAA")
        ]:
            answer.answer.append(dns.rrset.from_text(asked.name, 0, "IN", kind, *found))
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), address)

    async def lookup(self, host: str) -> Collection[str]:
        """Ask this server; takes the place of the system's resolver."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.port
        found: list[str] = []
        for kind in ("A", "AAAA"):
            with contextlib.suppress(dns.resolver.NoAnswer):
                try:
                    answer = await resolver.resolve(host, kind, search=False, lifetime=5)
                except (dns.resolver.NXDOMAIN, dns.exception.Timeout) as error:
                    raise OSError(str(error)) from error
                found += [record.to_text() for record in answer]
        return found


@contextlib.asynccontextmanager
async def dns_server(zone: Zone) -> AsyncIterator[DnsServer]:
    """Run a DNS server on a free port of the loopback address."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: DnsServer(zone), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
