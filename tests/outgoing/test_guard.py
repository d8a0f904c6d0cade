"""What outgoing requests can't reach: a listener on every local address counts connections."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from testkit.dns_server import dns_server
from testkit.listener import Listener, listening
from upscaled.outgoing.addresses import AddressRules
from upscaled.outgoing.client import TO_GET, OutgoingClient
from upscaled.outgoing.errors import (
    AddressRefusedError,
    HostUnreachableError,
    NoAnswerError,
    OutgoingError,
)

PUBLIC = "93.184.216.34"


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as found:
        yield found


def own_address() -> str:
    """Return this machine's address in its network; the loopback one where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((PUBLIC, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


HOSTS = (
    # loopback, in every notation
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "2130706433", "017700000001",
    "0x7f000001", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "0", "0.0.0.0", "0x0",
    "localhost", "localhost.", "LOCALHOST", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "①②⑦.⓪.⓪.①", "127。0。0。1",
    "127．0．0．1", "１２７.0.0.1",
    # IPv6, and IPv4 inside of it
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:7f00:1::80ff:fffe]",
    "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fe80::1%25lo]", "[::1%25lo]", "[fc00::1]",
    "[fd00:ec2::254]", "[fd20:ce::254]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[3fff::1]",
    "[100::1]", "[2600::5efe:7f00:1]", "[5f00::1]",
    # private, shared, link-local, metadata, multicast, reserved
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200",
    "169.254.169.254", "169.254.1.1", "0xa9fea9fe", "[::ffff:169.254.169.254]", "168.63.129.16",
    "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    own_address(),
)  # fmt: skip
URLS = (
    "http://user@127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://@127.0.0.1:{port}/",
    "http://93.184.216.34@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@93.184.216.34/",
    "http://127.0.0.1:{port}#@93.184.216.34/",
    "http://127.0.0.1:{port}?@93.184.216.34/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://127.0.0.1%00.example.com:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://local\nhost:{port}/",
    " http://127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_GET",
    "unix:///run/docker.sock",
    "dict://127.0.0.1:{port}/",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "HTTP://127.0.0.1:{port}/",
    "http://127.0.0.1:0{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[v1.x]:{port}/",
    "http://127.0.0.1.1:{port}/",
    "http://0x7f.0.0.0.1:{port}/",
    "http://256.0.0.1:{port}/",
    "http://127.0.0.08:{port}/",
    "http://..:{port}/",
    "http://:{port}/",
    "http://" + 64 * "a" + ".example:{port}/",
    "http://127.0.0.1:{port}/" + 4096 * "a",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http://[::1:{port}/",
    "",
)


async def get(client: OutgoingClient, url: str, seconds: float = 5) -> tuple[int, bytes]:
    async with client.request("GET", url, seconds=seconds, follow=TO_GET) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("host", HOSTS)
async def test_no_local_address_is_reached_in_any_notation(listener: Listener, host: str) -> None:
    client = OutgoingClient(AddressRules())
    # Some resolvers don't know this form.
    expected = (
        (AddressRefusedError, HostUnreachableError) if host == "localhost." else AddressRefusedError
    )
    with pytest.raises(expected):
        await get(client, f"http://{host}:{listener.port}/")
    assert listener.connections == 0


@pytest.mark.parametrize("url", URLS)
async def test_no_trick_in_the_address_reaches_anything(listener: Listener, url: str) -> None:
    client = OutgoingClient(AddressRules())
    with pytest.raises(AddressRefusedError):
        await get(client, url.format(port=listener.port))
    assert listener.connections == 0


@pytest.mark.parametrize("host", HOSTS)
async def test_no_redirect_leads_to_a_local_address(listener: Listener, host: str) -> None:
    async with dns_server({"start.example": lambda _: ["127.0.0.1"]}) as names:
        client = OutgoingClient(AddressRules(["start.example"]), lookup=names.lookup)
        target = f"http://{host}:{listener.port}/"
        listener.answer = lambda _: web.Response(status=302, headers={"Location": target})
        with pytest.raises(OutgoingError):
            await get(client, f"http://start.example:{listener.port}/")
    assert listener.connections == 1, "only the first one"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00:ec2::254", "::ffff:10.0.0.1"],
)
async def test_a_name_of_a_local_address_is_refused(listener: Listener, address: str) -> None:
    zone = {"inside.example": lambda _: [PUBLIC, address], "alone.example": lambda _: [address]}
    async with dns_server(zone) as names:
        client = OutgoingClient(AddressRules(), lookup=names.lookup)
        for name in zone:
            with pytest.raises(AddressRefusedError) as refusal:
                await get(client, f"http://{name}:{listener.port}/")
            assert address not in str(refusal.value), "what a name means inside is not told"
    assert listener.connections == 0


async def test_a_name_that_changes_its_address_after_the_check_gets_nothing(
    listener: Listener,
) -> None:
    """DNS rebinding: public when it is checked, local when it is connected to."""
    zone = {"rebind.example": lambda times: [PUBLIC] if times == 0 else ["127.0.0.1"]}
    async with dns_server(zone) as names:
        client = OutgoingClient(AddressRules(), lookup=names.lookup)
        await client.check(f"http://rebind.example:{listener.port}/", 5)
        for _ in range(3):
            with pytest.raises(OutgoingError):
                await get(client, f"http://rebind.example:{listener.port}/", seconds=1)
        assert listener.connections == 0

        names.asked.clear()
        with pytest.raises((NoAnswerError, HostUnreachableError)):
            await get(client, f"http://rebind.example:{listener.port}/", seconds=1)
        assert names.asked["rebind.example", "A"] == 1, "one lookup for check and connection"
    assert listener.connections == 0


async def test_of_a_name_with_very_many_addresses_only_checked_ones_are_used(
    listener: Listener,
) -> None:
    async def many(_: str) -> list[str]:
        return [f"10.0.0.{number}" for number in range(1, 200)] + ["127.0.0.1"]

    client = OutgoingClient(AddressRules(["10.0.0.0/8"]), lookup=many)
    with pytest.raises(OutgoingError):
        await get(client, f"http://many.example:{listener.port}/", seconds=0.5)
    assert listener.connections == 0


async def test_the_socket_goes_to_the_checked_address_even_if_the_http_client_resolves_again(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(*_: object, **__: object) -> list[dict[str, object]]:
        return [
            {"hostname": "x", "host": "127.0.0.1", "port": listener.port,
             "family": socket.AF_INET, "proto": 0, "flags": 0}
        ]  # fmt: skip

    monkeypatch.setattr("upscaled.outgoing.connection._Pinned.resolve", elsewhere)
    async with dns_server({"public.example": lambda _: [PUBLIC]}) as names:
        client = OutgoingClient(AddressRules(), lookup=names.lookup)
        with pytest.raises(AddressRefusedError):
            await get(client, f"http://public.example:{listener.port}/")
    assert listener.connections == 0


async def test_what_the_settings_allow_is_reached(listener: Listener) -> None:
    zone = {"inside.example": lambda _: ["127.0.0.1"], "mine.lan": lambda _: ["127.0.0.1"]}
    async with dns_server(zone) as names:
        for allow, host in (
            ("127.0.0.0/8", "127.0.0.1"),
            ("127.0.0.0/8", "2130706433"),
            ("127.0.0.0/8", "[::ffff:127.0.0.1]"),
            ("127.0.0.1", "inside.example"),
            ("mine.lan", "mine.lan"),
            ("Mine.lan", "mine.LAN."),
            ("::1", "[::1]"),
        ):
            client = OutgoingClient(AddressRules([allow]), lookup=names.lookup)
            assert await get(client, f"http://{host}:{listener.port}/x") == (200, b"")
        client = OutgoingClient(AddressRules(["mine.lan"]), lookup=names.lookup)
        for host in ("inside.example", "127.0.0.1"):
            with pytest.raises(AddressRefusedError):
                await get(client, f"http://{host}:{listener.port}/")


def test_an_allowed_name_opens_no_metadata_service() -> None:
    rules = AddressRules(["mine.lan", "10.0.0.0/8"])
    for text, allowed in (
        ("192.168.1.2", True),
        ("127.0.0.1", True),
        ("fd12::1", True),
        ("169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1", False),
    ):
        assert rules.allows(ipaddress.ip_address(text), "mine.lan") is allowed, text
    assert AddressRules(["169.254.169.254"]).allows(ipaddress.ip_address("169.254.169.254"), "x")
    nat = ipaddress.ip_address("64:ff9b::c0a8:1")
    assert not AddressRules(["64:ff9b::/96"]).allows(nat, "x"), "192.168.0.1 is behind it"
    assert AddressRules(["64:ff9b::/96", "192.168.0.0/16"]).allows(nat, "x")


@pytest.mark.parametrize(
    "text", [PUBLIC, "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_are_allowed(text: str) -> None:
    assert AddressRules().allows(ipaddress.ip_address(text), text)


async def test_other_ports_are_refused(listener: Listener) -> None:
    client = OutgoingClient(AddressRules(["127.0.0.1"]), [80, 443])
    for port in (listener.port, 22, 25, 6379):
        with pytest.raises(AddressRefusedError, match="80, 443"):
            await get(client, f"http://127.0.0.1:{port}/")
    listener.answer = lambda _: web.Response(
        status=302, headers={"Location": "http://127.0.0.1:22/"}
    )
    client = OutgoingClient(AddressRules(["127.0.0.1"]), [listener.port])
    with pytest.raises(AddressRefusedError, match="port 22"):
        await get(client, f"http://127.0.0.1:{listener.port}/")
    assert listener.connections == 1


async def test_redirects_are_bounded_and_never_loop(listener: Listener) -> None:
    client = OutgoingClient(AddressRules(["127.0.0.1"]))
    listener.answer = lambda _: web.Response(status=307, headers={"Location": "/again"})
    with pytest.raises(AddressRefusedError, match="more than 5 times"):
        await get(client, f"http://127.0.0.1:{listener.port}/")
    assert listener.connections == 6


async def test_a_redirect_that_makes_no_sense_is_refused(listener: Listener) -> None:
    client = OutgoingClient(AddressRules(["127.0.0.1"]))
    for location in ("http://[", "file:///etc/passwd", "ftp://127.0.0.1/", "http://a:b:c/"):
        listener.answer = lambda _, to=location: web.Response(  # type: ignore[misc]
            status=302, headers={"Location": to}
        )
        with pytest.raises(AddressRefusedError):
            await get(client, f"http://127.0.0.1:{listener.port}/")


async def test_neither_cookies_nor_proxies_nor_passwords_are_used(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    answers = iter(
        [web.Response(status=302, headers={"Location": "/x", "Set-Cookie": "a=b"}), web.Response()]
    )
    listener.answer = lambda _: next(answers)
    client = OutgoingClient(AddressRules(["127.0.0.1"]))
    assert await get(client, f"http://127.0.0.1:{listener.port}/") == (200, b"")
    sent = listener.requests[-1].headers
    assert not {"Cookie", "Authorization", "Referer", "Proxy-Authorization"} & set(sent)
    assert sent["User-Agent"].startswith("upscaled/")


async def test_an_answer_that_never_ends_is_cut_off(listener: Listener) -> None:
    class Endless(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            while True:
                await self.write(b"x")
                await asyncio.sleep(0.05)  # each byte comes in time, the answer never ends

    listener.answer = lambda _: Endless()
    client = OutgoingClient(AddressRules(["127.0.0.1"]))
    with pytest.raises(NoAnswerError):
        await get(client, f"http://127.0.0.1:{listener.port}/", seconds=0.5)


async def test_a_name_server_that_is_silent_holds_up_only_its_own_request() -> None:
    async def silent(_: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    client = OutgoingClient(AddressRules(), lookup=silent)
    with pytest.raises(NoAnswerError):
        await get(client, "http://public.example/", seconds=0.2)
    await client.check("http://public.example/", 0.1)  # not known to be wrong


async def test_names_that_do_not_exist_and_closed_ports_are_told() -> None:
    async with dns_server({"closed.example": lambda _: ["127.0.0.1"]}) as names:
        client = OutgoingClient(AddressRules(["127.0.0.1"]), lookup=names.lookup)
        with pytest.raises(HostUnreachableError, match="resolved"):
            await get(client, "http://nowhere.example/")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with pytest.raises(HostUnreachableError, match="no connection"):
            await get(client, f"http://closed.example:{port}/")


async def test_the_system_resolver_is_asked_by_default(listener: Listener) -> None:
    client = OutgoingClient(AddressRules(["127.0.0.1", "::1"]))
    assert await get(client, f"http://localhost:{listener.port}/") == (200, b"")
    with pytest.raises(HostUnreachableError):
        await get(client, "http://nowhere.invalid/", seconds=30)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls_verifies_the_name_although_the_address_is_pinned(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=DNS:good.example",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    zone = {name: lambda _: ["127.0.0.1"] for name in ("good.example", "evil.example")}
    async with dns_server(zone) as names, listening(serving) as listener:
        rules = AddressRules(["127.0.0.1"])
        client = OutgoingClient(rules, lookup=names.lookup, tls=trusting)
        assert await get(client, f"https://good.example:{listener.port}/") == (200, b"")
        with pytest.raises(HostUnreachableError, match="certificate"):
            await get(client, f"https://evil.example:{listener.port}/")
        with pytest.raises(HostUnreachableError, match="certificate"):
            await get(
                OutgoingClient(rules, lookup=names.lookup), f"https://good.example:{listener.port}/"
            )
        listener.answer = lambda _: web.Response(
            status=302, headers={"Location": f"http://good.example:{listener.port}/"}
        )
        with pytest.raises(AddressRefusedError, match="insecure"):
            await get(client, f"https://good.example:{listener.port}/")
        assert len(listener.requests) == 2
