"""Faults of the chat endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ds4bench.embedded.chat.parse import Delta, ReplyParser, TextDelta
from ds4bench.embedded.chat.special_tokens import DSML
from ds4bench.embedded.faults.base import Serve, wrap

if TYPE_CHECKING:
    from ds4bench.embedded.api import ChatRequest, Conversation
    from ds4bench.embedded.chat.encoding import Prompt

OTHER_REASONING_FIELD = "reasoning_content"


def thinking_ignored(serve: Serve, _amount: float) -> None:
    """No reply thinks, whatever the request asks for, as if it had asked in another engine's words."""

    def never(inner: Callable[[Conversation], Prompt]) -> Callable[[Conversation], Prompt]:
        def render(conversation: Conversation) -> Prompt:
            given = {**(conversation.chat_template_kwargs or {}), "thinking": False, "enable_thinking": False}
            return inner(conversation.model_copy(update={"chat_template_kwargs": given}))

        return render

    wrap(serve.chat, "render", never)


def dsml_split_leak(serve: Serve, _amount: float) -> None:
    """In streams with tools, what stood before the cut of a split tool-call marker shows in the content too."""

    def leaking(inner: Callable[[ChatRequest, Prompt], ReplyParser]) -> Callable[[ChatRequest, Prompt], ReplyParser]:
        def parser(request: ChatRequest, prompt: Prompt) -> ReplyParser:
            tools = request.tools_for_reply()
            if not request.stream or not tools:
                return inner(request, prompt)
            return LeakyParser(thinking=prompt.thinking, tools=tools, opened=prompt.opened)

        return parser

    wrap(serve.chat, "parser", leaking)


def reasoning_field_renamed(serve: Serve, _amount: float) -> None:
    """Reasoning arrives under the other name that engines use for it."""
    serve.chat.reasoning_field = OTHER_REASONING_FIELD


class LeakyParser(ReplyParser):
    """Forgets that it has held text back, once a marker that the text began is complete."""

    def feed(self, delta: str) -> list[Delta]:
        """As the right parser, with the leak before it."""
        held = self.held
        deltas = super().feed(delta)
        text = "".join(item.text for item in deltas if isinstance(item, TextDelta))
        still_unknown = self.held.startswith(held)
        false_alarm = text.startswith(held)
        if not held or DSML not in held + delta or still_unknown or false_alarm:
            return deltas
        return [TextDelta("content", held), *deltas]
