"""A chat reply's text as reasoning, content and tool calls, streamed or whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4bench.embedded.chat.dsml import DsmlParser, ToolCallDelta, new_call_id
from ds4bench.embedded.chat.reasoning import Kind, ReasoningParser


@dataclass(frozen=True)
class TextDelta:
    """More reasoning or content; never empty."""

    kind: Kind
    text: str


Delta = TextDelta | ToolCallDelta


@dataclass
class ToolCall:
    """A whole call; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str = ""

    def to_json(self) -> dict[str, Any]:
        """As in a message of OpenAI's API."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass
class ParsedReply:
    """A reply, or what has come of it so far."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Append what a parser has returned."""
        if isinstance(delta, ToolCallDelta):
            if delta.id is not None:
                self.tool_calls.append(ToolCall(delta.id, delta.name or ""))
            self.tool_calls[delta.index].arguments += delta.arguments
        elif delta.kind == "reasoning":
            self.reasoning += delta.text
        else:
            self.content += delta.text


class ReplyParser:
    """The reasoning parser and, where the request has tools, the tool parser behind it.

    ``thinking`` says that the prompt opened reasoning; ``opened`` is the part of the reply that the prompt holds already
    (``encoding.Prompt`` has both). ``tools`` are as in OpenAI's API; without any, DSML is content like other text.
    """

    def __init__(
        self,
        *,
        thinking: bool,
        tools: Sequence[Mapping[str, Any]] = (),
        opened: str = "",
        make_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._reasoning = ReasoningParser(thinking=thinking)
        self._tools = DsmlParser(_properties(tools), make_id) if tools else None
        self._first = self._parse(opened)

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text is reasoning, as far as is known."""
        return self._reasoning.in_reasoning

    @property
    def held(self) -> str:
        """Text that is held back until it is known whether it begins a marker that ends reasoning or content."""
        return self._reasoning.held

    def feed(self, delta: str) -> list[Delta]:
        """Take the next piece of the reply; returns what has become certain."""
        first, self._first = self._first, []
        return first + self._parse(delta)

    def finish(self) -> list[Delta]:
        """The reply has ended."""
        deltas, self._first = self._first, []
        for kind, text in self._reasoning.finish():
            deltas += self._route(kind, text)
        return deltas + (_deltas(self._tools.finish()) if self._tools else [])

    def _parse(self, text: str) -> list[Delta]:
        return [delta for kind, part in self._reasoning.feed(text) for delta in self._route(kind, part)]

    def _route(self, kind: Kind, text: str) -> list[Delta]:
        if kind == "content" and self._tools is not None:
            return _deltas(self._tools.feed(text))
        return [TextDelta(kind, text)]


def parse_reply(text: str, *, thinking: bool, tools: Sequence[Mapping[str, Any]] = (), opened: str = "") -> ParsedReply:
    """A whole reply at once: the streaming parser fed once."""
    parser = ReplyParser(thinking=thinking, tools=tools, opened=opened)
    reply = ParsedReply()
    for delta in parser.feed(text) + parser.finish():
        reply.add(delta)
    return reply


def _deltas(events: Sequence[str | ToolCallDelta]) -> list[Delta]:
    return [TextDelta("content", event) if isinstance(event, str) else event for event in events]


def _properties(tools: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Property names of each tool's schema, by the tool's name."""
    functions = [tool["function"] for tool in tools]
    return {f["name"]: list((f.get("parameters") or {}).get("properties") or {}) for f in functions}
