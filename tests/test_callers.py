"""Who calls: tokens, addresses behind proxies, shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.callers import Proxies, Tokens, hash_of, new_token, share_of

PROXIES = Proxies(["10.0.0.0/8", "fd00::/8"])


def test_a_token_is_told_by_its_hash_and_belongs_to_its_name() -> None:
    mine, yours = new_token(), new_token()
    tokens = Tokens("", [("mine", hash_of(mine)), ("yours", hash_of(yours))])
    assert tokens.owner([mine]) == "mine"
    assert tokens.owner(["wrong", yours]) == "yours"
    assert tokens.owner(["wrong"]) is None
    assert tokens.owner([hash_of(mine)]) is None, "the hash itself opens nothing"
    assert tokens.owner([]) is None


def test_the_one_token_may_be_a_secret_or_a_hash() -> None:
    assert Tokens("secret", []).owner(["secret"]) == ""
    assert Tokens(hash_of("secret"), []).owner(["secret"]) == ""
    assert not Tokens("", [])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.7, 10.2.3.4"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("fd00::1", [", "], "fd00::1"),
        (None, ["198.51.100.7"], ""),
    ],
)
def test_the_address_is_the_last_hop_that_no_trusted_proxy_is(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    assert PROXIES.address_of(peer, forwarded) == address


@given(st.lists(st.text(max_size=40), max_size=5))
def test_what_a_stranger_forwards_never_changes_its_address(forwarded: list[str]) -> None:
    assert PROXIES.address_of("192.0.2.1", forwarded) == "192.0.2.1"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_no_text_in_the_header_breaks_the_reading_of_it(forwarded: list[str]) -> None:
    assert PROXIES.address_of("10.0.0.1", forwarded)


def test_the_addresses_of_one_ipv6_network_share() -> None:
    assert share_of("2001:db8::1") == share_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert share_of("2001:db8:0:1::1") != share_of("2001:db8::1")
    assert share_of("192.0.2.1") == "192.0.2.1"
