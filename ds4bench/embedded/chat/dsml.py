"""Tool calls in DSML, DeepSeek-V4's markup, from a reply that arrives in pieces.

The form, as the released model writes it after its text and a blank line::

    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="get_weather">
    <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

What replies get wrong and is understood all the same (vLLM 0.33 and SGLang 0.5.23 are as tolerant): the block's name
spelt ``toolcalls`` or ``tool``, no block around an invoke, an invoke closed by the block's end or by the next invoke, a
parameter without ``string``, a parameter closed by whatever comes next, a JSON object instead of parameters, arguments
wrapped in one parameter, several blocks, text after a block (dropped).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from ds4bench.embedded.chat.arguments import ArgumentsWriter
from ds4bench.embedded.chat.markers import (
    CLOSERS,
    INVOKE,
    OPENERS,
    PARAMETER,
    PARAMETER_END,
    Markers,
    after_newlines,
)  # fmt: skip
from ds4bench.embedded.chat.special_tokens import DSML


@dataclass(frozen=True)
class ToolCallDelta:
    """What one piece of the reply adds to tool call number ``index``.

    ``id`` and ``name`` come once, with the call's first delta. All ``arguments`` of a call together are a JSON object.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Event = str | ToolCallDelta  # a str is content
_ANY = (*OPENERS, *CLOSERS)
_CUT_SHORT = after_newlines(*OPENERS, *(marker for marker in CLOSERS if marker != PARAMETER_END), most=1)


class _State(Enum):
    """Where in the form the parser is, and what it looks for there."""

    TEXT = Markers(*after_newlines(*OPENERS, most=2), *CLOSERS)  # the blank line before a block is the block's
    BLOCK = Markers(INVOKE)  # before, between and after invokes: nothing else counts
    NAME = Markers('"', *_ANY)
    BODY_START = Markers("{", *_ANY)
    BODY = Markers(*_ANY)
    OBJECT = Markers(*_ANY)
    PARAMETER_NAME = Markers('"', *_ANY)
    ATTRIBUTES = Markers(">", *_ANY)
    VALUE = Markers(PARAMETER_END, *_CUT_SHORT)  # a cut-short value's last newline is not the value's


def new_call_id() -> str:
    """An id as OpenAI makes them."""
    return f"call_{uuid.uuid4().hex[:24]}"


class DsmlParser:
    """Content and tool calls of a reply. The result does not depend on how the text was cut into pieces.

    ``properties`` has the property names of each tool's schema, by the tool's name. A reply parsed whole is a reply fed
    once.
    """

    def __init__(
        self, properties: Mapping[str, Collection[str]] | None = None, make_id: Callable[[], str] = new_call_id
    ) -> None:
        self._properties = properties or {}
        self._make_id = make_id
        self._state = _State.TEXT
        self._buffer = ""
        self._held = ""  # a name, attributes or a JSON object that is not complete
        self._parameter = ""
        self._calls = 0
        self._writer: ArgumentsWriter | None = None
        self._events: list[Event] = []

    def feed(self, delta: str) -> list[Event]:
        """Take the next piece of the reply; returns what has become certain."""
        self._buffer += delta
        while True:
            text, marker, self._buffer = self._state.value.split(self._buffer)
            self._take(text)
            if marker is None:
                return self._emitted()
            self._pass(marker)

    def finish(self) -> list[Event]:
        """The reply has ended: open values and calls are closed. Half a tag is dropped, any other held text is text."""
        text, self._buffer = self._buffer, ""
        if DSML not in text:
            self._take(text)
        if self._writer is not None:
            self._end_value(self._held)
            self._end_call()
        return self._emitted()

    def _emitted(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _take(self, text: str) -> None:
        """Text of the present state."""
        if not text:
            return
        if self._state is _State.TEXT:
            self._events.append(text)
        elif self._state is _State.VALUE and self._writer is not None:
            self._write(self._writer.add(text))
        elif self._state in {_State.NAME, _State.PARAMETER_NAME, _State.ATTRIBUTES, _State.OBJECT}:
            self._held += text

    def _pass(self, marker: str) -> None:
        """A marker that the present state looks for."""
        marker = marker.lstrip("\n")
        held, self._held = self._held, ""
        if self._state is _State.TEXT and marker in CLOSERS:
            return  # it closes nothing; the text goes on
        if marker == "{":
            self._state, self._held = _State.OBJECT, "{"
        elif marker == '"' and self._state is _State.NAME:
            self._begin_call(held)
        elif marker == '"':
            self._state, self._parameter = _State.ATTRIBUTES, held
        elif marker == ">":
            self._begin_value(held)
        else:
            self._end_value(held)
            self._tag(marker)

    def _tag(self, marker: str) -> None:
        """A DSML tag, wherever it stands."""
        inside = self._writer is not None
        if marker == PARAMETER:
            self._state = _State.PARAMETER_NAME if inside else _State.BLOCK
        elif marker == PARAMETER_END:
            self._state = _State.BODY if inside else _State.BLOCK
        else:
            self._end_call()
            self._state = _State.NAME if marker == INVOKE else _State.BLOCK

    def _begin_call(self, name: str) -> None:
        if not name.strip():
            self._state = _State.BLOCK
            return
        self._writer = ArgumentsWriter(self._properties.get(name, ()))
        self._events.append(ToolCallDelta(self._calls, id=self._make_id(), name=name))
        self._state = _State.BODY_START

    def _begin_value(self, attributes: str) -> None:
        if self._writer is not None:
            self._write(self._writer.begin(self._parameter, is_string='string="true"' in attributes))
        self._state = _State.VALUE

    def _end_value(self, held: str) -> None:
        """What the present state has begun is complete, or as complete as it will get."""
        if self._writer is None:
            return
        if self._state is _State.VALUE:
            self._write(self._writer.end())
        elif self._state is _State.OBJECT:
            self._write(self._writer.whole(held))

    def _end_call(self) -> None:
        if self._writer is not None:
            self._write(self._writer.close())
            self._writer = None
            self._calls += 1

    def _write(self, arguments: str) -> None:
        if arguments:
            self._events.append(ToolCallDelta(self._calls, arguments))
