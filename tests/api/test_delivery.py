"""What counts as delivered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upscaled.api.delivery import Deliveries, Delivery, Span
from upscaled.api.download import RangeError, disposition, wanted_span

SIZE = 40
SPANS = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
        lambda pair: Span(min(pair), max(min(pair) + 1, *pair))
    )
)


@given(SPANS)
def test_a_delivery_is_complete_when_every_byte_was_in_some_request(spans: list[Span]) -> None:
    delivery = Delivery(SIZE)
    covered: set[int] = set()
    for span in spans:
        expected = covered | set(range(span.start, span.stop))
        assert delivery.would_complete(span) == (len(expected) == SIZE)
        delivery.add(span)
        covered = expected
        assert delivery.complete == (len(covered) == SIZE)


@given(SPANS)
def test_broken_requests_alone_never_complete_a_delivery(spans: list[Span]) -> None:
    delivery = Delivery(SIZE)
    for span in spans:
        delivery.add_broken(span)
        assert not delivery.complete


def test_the_rest_after_a_broken_request_completes_a_delivery() -> None:
    delivery = Delivery(SIZE)
    delivery.add_broken(Span(0, 20))
    delivery.add(Span(11, SIZE))
    assert delivery.complete


def test_only_so_many_deliveries_are_remembered() -> None:
    deliveries = Deliveries()
    first = deliveries.of("0", SIZE)
    assert deliveries.of("0", SIZE) is first
    assert deliveries.of("0", SIZE + 1) is not first
    for number in range(1, 2000):
        deliveries.of(str(number), SIZE)
    assert len(deliveries._by_job) == 1024


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("", None),
        ("bytes=0-", Span(0, 100)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=10-1000", Span(10, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("bytes=20-10", None),
        ("bytes=-", None),
        ("bytes=1-2,4-5", None),
        ("lines=1-2", None),
        ("bytes=a-b", None),
        ("bytes=١-", None),
    ],
)
def test_a_range_is_read_as_the_rfc_says(header: str, span: Span | None) -> None:
    assert wanted_span(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_the_file_is_an_error(header: str) -> None:
    with pytest.raises(RangeError):
        wanted_span(header, 100)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("photo_2x.png", 'attachment; filename="photo_2x.png"'),
        ("../../etc/passwd", 'attachment; filename="_.._etc_passwd"'),
        ('a"b\r\nX: y.png', 'attachment; filename="a_b__X_ y.png"'),
        (".bashrc", 'attachment; filename="bashrc"'),
        ("", 'attachment; filename="result"'),
        (
            "Größe 😀.png",
            'attachment; filename="Gr__e _.png"; '
            "filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%F0%9F%98%80.png",
        ),
        ("lone\udc80.png", 'attachment; filename="lone_.png"'),
    ],
)
def test_a_file_name_never_breaks_out_of_its_header(name: str, header: str) -> None:
    assert disposition(name) == header
