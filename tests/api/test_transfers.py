"""What counts as delivered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.api.download import RangeError, disposition, rest_from, wanted_span
from upscaled.api.transfers import Span, Transfer, TransferTracker

SIZE = 40
SPANS = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
        lambda pair: Span(min(pair), max(min(pair) + 1, *pair))
    )
)


@given(SPANS)
def test_a_delivery_is_complete_when_every_byte_was_in_some_request(spans: list[Span]) -> None:
    transfer = Transfer(SIZE)
    covered: set[int] = set()
    for span in spans:
        expected = covered | set(range(span.start, span.stop))
        assert transfer.would_complete(span) == (len(expected) == SIZE)
        transfer.add(span)
        covered = expected
        assert transfer.complete == (len(covered) == SIZE)


@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE))))
def test_broken_requests_alone_never_complete_a_delivery(requests: list[tuple[int, int]]) -> None:
    transfer = Transfer(SIZE)
    for start, count in requests:
        transfer.asked(start)
        transfer.add_broken(Span(start, min(SIZE, start + count)))
        assert not transfer.complete


@pytest.mark.parametrize(("start", "complete"), [(0, True), (11, True), (20, True), (21, False)])
def test_the_rest_after_a_broken_request_completes_a_delivery(start: int, complete: bool) -> None:
    transfer = Transfer(SIZE)
    transfer.asked(None)
    transfer.add_broken(Span(0, 20))
    transfer.asked(start)
    assert transfer.would_complete(Span(start, SIZE)) == complete
    transfer.add(Span(start, SIZE))
    assert transfer.complete == complete


def test_a_download_may_break_off_twice_and_still_be_completed() -> None:
    transfer = Transfer(SIZE)
    transfer.add_broken(Span(0, 20))
    transfer.asked(10)
    transfer.add_broken(Span(10, SIZE))
    transfer.asked(SIZE - 1)
    transfer.add(Span(SIZE - 1, SIZE))
    assert transfer.complete


def test_what_was_handed_out_and_broke_off_is_not_taken_for_delivered() -> None:
    transfer = Transfer(SIZE)
    transfer.add_broken(Span(0, SIZE))
    transfer.asked(None)  # a segment: its caller wants the others too
    transfer.add(Span(SIZE - 1, SIZE))
    assert not transfer.complete
    transfer.asked(20)  # too late: this caller may be another
    transfer.add(Span(20, SIZE))
    assert not transfer.complete


@pytest.mark.parametrize(
    ("header", "start"), [("bytes=9-", 9), ("bytes=9-99", None), ("bytes=-91", None), ("", None)]
)
def test_only_an_open_range_asks_for_the_rest(header: str, start: int | None) -> None:
    assert rest_from(header, wanted_span(header, 100) or Span(0, 100)) == start


def test_only_so_many_deliveries_are_remembered() -> None:
    transfers = TransferTracker()
    first = transfers.of("0", SIZE)
    assert transfers.of("0", SIZE) is first
    assert transfers.of("0", SIZE + 1) is not first
    for number in range(1, 2000):
        transfers.of(str(number), SIZE)
    assert len(transfers._by_job) == 1024


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
