"""Conversations in short hand: what the model says, turn by turn, played through the real turn loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ds4bench.workloads.toolcall15.conversation import Send, converse
from ds4bench.workloads.toolcall15.modes import MODES, Mode
from ds4bench.workloads.toolcall15.reply import Reply, ReplyCall
from ds4bench.workloads.toolcall15.scenario import Battery, load_battery
from ds4bench.workloads.toolcall15.trace import Trace

Call = tuple[str, dict[str, Any]]
Turn = str | list[Call] | tuple[str, list[Call]] | Reply
Play = Callable[..., Trace]


@pytest.fixture(scope="session")
def battery() -> Battery:
    """The battery as it is shipped."""
    return load_battery()


def reply_of(turn: Turn) -> Reply:
    """A text is an answer, a list is calls, a pair is both."""
    if isinstance(turn, Reply):
        return turn
    text, calls = (turn, []) if isinstance(turn, str) else ("", turn) if isinstance(turn, list) else turn
    made = [ReplyCall(None, name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    return Reply(content=text, calls=made, finish_reason="tool_calls" if made else "stop")


def scripted(turns: Sequence[Turn], sent: list[dict[str, Any]] | None = None) -> Send:
    """A ``send`` that gives these replies in order, the last one again and again, and keeps what it was asked."""
    waiting = list(turns)

    async def send(messages: list[dict[str, Any]], tools: list[dict[str, Any]], mode: Mode) -> Reply:
        if sent is not None:
            sent.append({"messages": messages, "tools": tools, "mode": mode})
        return reply_of(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    return send


@pytest.fixture(scope="session")
def play(battery: Battery) -> Play:
    """Plays turns against a scenario's mocks."""

    def run(
        name: str,
        *turns: Turn,
        protocol: Any = "v1-jasl",
        mode: str = "non-thinking",
        round_: int = 0,
        language: Any = "en",
    ) -> Trace:
        scenario = battery.scenario(name, protocol, language)
        return asyncio.run(converse(scenario, MODES[mode], scripted(turns), round_=round_))

    return run


@pytest.fixture(scope="session")
def script() -> Callable[..., Send]:
    """``scripted`` for tests that hold the conversation themselves."""
    return scripted
