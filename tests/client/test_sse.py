"""The splitter agrees with httpx-sse on every byte string, and knows where each event ended."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.client.sse import split_events

_PIECES = st.sampled_from(
    [
        "data:",
        "data: ",
        "data",
        ":",
        ": comment",
        "event: x",
        "id: 1",
        "retry: 5",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        " ",
        "é",
        "汉",
        "{}",
    ]
)
_BODIES = st.lists(_PIECES | st.text(max_size=4).filter(lambda text: "\x00" not in text), max_size=30).map("".join)


def _oracle(body: bytes) -> list[str]:
    response = httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=body)
    events: Iterator[object] = EventSource(response).iter_sse()
    return [event.data for event in events]  # type: ignore[attr-defined]


@given(_BODIES)
def test_the_events_are_those_of_httpx_sse(text: str) -> None:
    # A line that is blank only to us or them would differ: httpx-sse also reports events without data, which we leave out.
    body = text.replace("\ufeff", "").encode() + b"\n"
    ours = [event.data.decode() for event in split_events(body).events if event.data]
    assert ours == [data for data in _oracle(body) if data]


@given(_BODIES)
def test_an_event_is_complete_at_its_end_and_not_a_byte_before(text: str) -> None:
    body = text.encode()
    for number, event in enumerate(split_events(body).events, 1):
        assert len(split_events(body[: event.end]).events) == number
        # A CR LF pair ends at its LF, though a CR alone would have done.
        before = event.end - (2 if body[: event.end].endswith(b"\r\n") else 1)
        assert len(split_events(body[:before]).events) < number


def test_line_ends_comments_and_joined_data() -> None:
    body = b"\xef\xbb\xbf: hello\r\ndata:one\r\ndata: two\r\n\r\n:\rdata:  three\r\rdata\n\n"
    result = split_events(body)
    assert [event.data for event in result.events] == [b"one\ntwo", b" three", b""]
    assert result.comments == 2
    assert result.rest == b""


def test_an_unfinished_event_is_the_rest() -> None:
    assert split_events(b"data: a\n\ndata: b\n").rest == b"data: b\n"
    assert split_events(b"data: a\n\ndata: b").rest == b"data: b"
    assert split_events(b"data: a\n\n: only a comment\n").rest == b""
