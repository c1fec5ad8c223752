"""Server-sent events, split from raw bytes (WHATWG HTML, section 9.2.6 "Interpreting an event stream").

Our own because every library hides when a byte arrived: here each event carries the offset of the byte that completed it,
and the transport knows when that offset was read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """An event's data, and the offset in the body just behind the line end that dispatched it."""

    data: bytes
    end: int


class SplitResult(NamedTuple):
    """Events of a body, the number of comment lines, and the bytes of an event that was not finished."""

    events: list[Event]
    comments: int
    rest: bytes


def split_events(body: bytes) -> SplitResult:
    """Split a whole body. An event without a final blank line is not dispatched: it is the ``rest``."""
    events: list[Event] = []
    data: list[bytes] = []
    comments = 0
    position = begin = len(_BOM) if body.startswith(_BOM) else 0
    for match in _LINE_END.finditer(body, position):
        line = body[position : match.start()]
        position = match.end()
        if not line:
            if data:
                events.append(Event(b"\n".join(data), match.end()))
            data = []
            begin = position
        elif line.startswith(b":"):
            comments += 1
        else:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
    unfinished = data or position < len(body)
    return SplitResult(events, comments, body[begin:] if unfinished else b"")
