"""What a fault does to one request and its reply. Pure: JSON in, JSON out; times come in as numbers.

The proxy makes one ``ReplyFault`` of every fault for each generation request and asks them in order. A streamed chunk and
a whole reply have the shapes of the OpenAI API (``choices[0].delta`` / ``.text`` / ``.message``).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DSML = "｜DSML｜"
"""DeepSeek-V4's token around the tags of a tool call."""


@dataclass(frozen=True)
class Arrival:
    """When a chunk came from the serve: instants in seconds. ``first_s`` is the first token chunk's, ``index`` counts
    token chunks from 0 (-1 before the first)."""

    request_s: float
    first_s: float
    now_s: float
    index: int


@dataclass(frozen=True)
class Amount:
    """The number behind a fault's colon: a share of the time that it delays (``20%``) or a number (``50``, ``50ms``)."""

    value: float
    percent: bool = False
    word: str = ""


class ReplyFault:
    """Changes nothing. ``number`` counts generation requests from 1, ``rng`` is seeded by fault and number."""

    def __init__(self, number: int, amount: Amount, rng: random.Random) -> None:
        self.number = number
        self.amount = amount
        self.rng = rng

    def status(self) -> int | None:
        """A status that the proxy answers with instead of asking the serve."""
        return None

    def primer(self, body: Json) -> Json | None:
        """A request to send, and to wait for, before this one."""
        return None

    def request(self, body: Json) -> Json:
        """The body that the serve gets."""
        return body

    def chunk(self, chunk: Json) -> list[Json]:
        """What becomes of a chunk."""
        return [chunk]

    def whole(self, reply: Json) -> Json:
        """What becomes of a reply that is not streamed."""
        return reply

    def hold_s(self, arrival: Arrival) -> float:
        """How much later than it came a chunk is passed on."""
        return 0.0

    def hangs(self, index: int) -> bool:
        """Whether nothing more is passed on once token chunk ``index`` has been."""
        return False

    def pieces(self, data: bytes) -> list[bytes]:
        """The writes in which an event's bytes go out."""
        return [data]

    def group(self) -> int:
        """How many events wait for each other and go out as one write."""
        return 1


class SameForBoth(ReplyFault):
    """Does to every chunk what it does to a reply that is not streamed."""

    def chunk(self, chunk: Json) -> list[Json]:
        return [self.whole(chunk)]


class LateFirstToken(ReplyFault):
    """The whole stream is passed on later, by a share of its time to first token or by milliseconds."""

    def hold_s(self, arrival: Arrival) -> float:
        if self.amount.percent:
            return self.amount.value / 100 * (arrival.first_s - arrival.request_s)
        return self.amount.value / 1000


class SlowChunks(ReplyFault):
    """Every chunk after the first is passed on later: all gaps grow by a share, or by milliseconds."""

    def hold_s(self, arrival: Arrival) -> float:
        if self.amount.percent:
            return self.amount.value / 100 * (arrival.now_s - arrival.first_s)
        return self.amount.value / 1000 * max(arrival.index, 0)


class DroppedChunks(ReplyFault):
    """Every n-th token chunk loses its text; what else it says (finish reason, usage) is passed on."""

    seen = 0

    def chunk(self, chunk: Json) -> list[Json]:
        if not has_text(chunk):
            return [chunk]
        self.seen += 1
        return [without_text(chunk)] if self.seen % int(self.amount.value) == 0 else [chunk]


class MergedChunks(ReplyFault):
    """N events wait for each other and arrive in one write."""

    def group(self) -> int:
        return int(self.amount.value)


class SplitBytes(ReplyFault):
    """Every byte of the stream is a write of its own, in the middle of markers and of characters."""

    def pieces(self, data: bytes) -> list[bytes]:
        return [data[i : i + 1] for i in range(len(data))]


class CachedSetTo(SameForBoth):
    """``cached_tokens`` in every usage is not what the serve says: ``none`` of the prompt, or ``all`` of it."""

    def whole(self, reply: Json) -> Json:
        return with_usage(reply, self._lied) if reply.get("usage") else reply

    def _lied(self, usage: Json) -> None:
        everything = usage.get("prompt_tokens") or 0
        usage["prompt_tokens_details"] = {"cached_tokens": 0 if self.amount.word == "none" else everything}


class Primed(ReplyFault):
    """Every prompt is sent twice, first for one token: the real request finds it in the prefix cache."""

    def primer(self, body: Json) -> Json | None:
        return {**without(body, "stream", "stream_options"), "max_tokens": 1, "stream": False}


class ThinkingIgnored(ReplyFault):
    """What a request says about thinking does not reach the serve."""

    def request(self, body: Json) -> Json:
        return without(body, "chat_template_kwargs", "thinking", "reasoning_effort", "reasoning")


class ReasoningField(SameForBoth):
    """Reasoning comes as ``reasoning``, ``reasoning_content`` or ``both``."""

    def whole(self, reply: Json) -> Json:
        reply = copy.deepcopy(reply)
        for message in messages_of(reply):
            given = [message.pop(name) for name in ("reasoning", "reasoning_content") if name in message]
            if given:
                for name in self._names():
                    message[name] = next((text for text in given if text), given[0])
        return reply

    def _names(self) -> tuple[str, ...]:
        return ("reasoning", "reasoning_content") if self.amount.word == "both" else (self.amount.word,)


class DsmlLeak(ReplyFault):
    """Streams: tool calls come as their markup in the content, a character a chunk, from a parser that knows only whole
    markers. Replies that are not streamed are right."""

    def chunk(self, chunk: Json) -> list[Json]:
        chunk = as_if_no_call(chunk)
        calls = ((choice_of(chunk) or {}).get("delta") or {}).get("tool_calls")
        if not calls:
            return [chunk]
        text = "".join(self._markup(call.get("function") or {}) for call in calls)
        last = copy.deepcopy(chunk)
        last["choices"][0]["delta"] = {}
        return [*(self._piece(chunk, character) for character in text), last]

    def _markup(self, function: Json) -> str:
        name, arguments = function.get("name"), function.get("arguments") or ""
        return (f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="{name}">\n' if name else "") + arguments

    def _piece(self, chunk: Json, text: str) -> Json:
        piece = without(copy.deepcopy(chunk), "usage")
        piece["choices"][0] |= {"delta": {"content": text}, "finish_reason": None}
        return piece


class CallsDropped(SameForBoth):
    """Tool calls do not arrive, streamed or whole: a reply ends as if its model had called nothing."""

    def whole(self, reply: Json) -> Json:
        reply = as_if_no_call(reply)
        for message in messages_of(reply):
            message.pop("tool_calls", None)
        return reply


class Refused(ReplyFault):
    """Every n-th generation request is answered with 503."""

    def status(self) -> int | None:
        return 503 if self.number % int(self.amount.value) == 0 else None


class Hang(ReplyFault):
    """One stream, that of the tenth request, says nothing more after n token chunks and never ends."""

    TENTH = 10

    def hangs(self, index: int) -> bool:
        return self.number == self.TENTH and index + 1 >= self.amount.value


class PoisonedDigits(SameForBoth):
    """Every digit of the content is another one."""

    def whole(self, reply: Json) -> Json:
        reply = copy.deepcopy(reply)
        for message in messages_of(reply):
            if isinstance(message.get("content"), str):
                message["content"] = self._other(message["content"])
        for choice in reply.get("choices") or []:
            if isinstance(choice.get("text"), str):
                choice["text"] = self._other(choice["text"])
        return reply

    def _other(self, text: str) -> str:
        return "".join(str((int(c) + self.rng.randint(1, 9)) % 10) if c in "0123456789" else c for c in text)


class TruncatedPrompt(ReplyFault):
    """The serve gets the last part only of the longest text of a prompt, as with ``truncate_prompt_tokens``."""

    def request(self, body: Json) -> Json:
        body = copy.deepcopy(body)
        if isinstance(body.get("prompt"), str):
            body["prompt"] = self._cut(body["prompt"])
        texts = [message for message in body.get("messages") or [] if isinstance(message.get("content"), str)]
        if texts:
            longest = max(texts, key=lambda message: len(message["content"]))
            longest["content"] = self._cut(longest["content"])
        return body

    def _cut(self, text: str) -> str:
        return text[int(len(text) * self.amount.value / 100) :]


class FinishReason(SameForBoth):
    """Every reply that ends gives this reason."""

    def whole(self, reply: Json) -> Json:
        choice = choice_of(reply)
        if choice is None or not choice.get("finish_reason"):
            return reply
        reply = copy.deepcopy(reply)
        reply["choices"][0]["finish_reason"] = self.amount.word
        return reply


class NoUsage(ReplyFault):
    """No usage anywhere; a chunk that held nothing else is left out."""

    def chunk(self, chunk: Json) -> list[Json]:
        rest = without(chunk, "usage")
        return [] if chunk.get("usage") and not chunk.get("choices") else [rest]

    def whole(self, reply: Json) -> Json:
        return without(reply, "usage")


class OtherModel(SameForBoth):
    """Replies name another model."""

    def whole(self, reply: Json) -> Json:
        return {**reply, "model": f"{reply['model']}-next"} if reply.get("model") else reply


class InflatedTokens(SameForBoth):
    """``completion_tokens`` is larger by a share than it is, in running counts too: every time per token looks shorter."""

    def whole(self, reply: Json) -> Json:
        return with_usage(reply, self._more) if reply.get("usage") else reply

    def _more(self, usage: Json) -> None:
        usage["completion_tokens"] = round((usage.get("completion_tokens") or 0) * (1 + self.amount.value / 100))


def choice_of(reply: Json) -> Json | None:
    """The only choice, where there is one."""
    choices = reply.get("choices") or []
    return choices[0] if choices else None


def messages_of(reply: Json) -> Iterator[Json]:
    """Deltas of a chunk, messages of a whole reply."""
    for choice in reply.get("choices") or []:
        for name in ("delta", "message"):
            if isinstance(choice.get(name), dict):
                yield choice[name]


def as_if_no_call(reply: Json) -> Json:
    """A copy that ends as a reply without tool calls does."""
    reply = copy.deepcopy(reply)
    choice = choice_of(reply)
    if choice is not None and choice.get("finish_reason") == "tool_calls":
        choice["finish_reason"] = "stop"
    return reply


def has_text(chunk: Json) -> bool:
    """Whether a chunk carries generated text."""
    choice = choice_of(chunk) or {}
    delta = choice.get("delta") or {}
    fields = [choice.get("text"), *(delta.get(name) for name in ("content", "reasoning", "reasoning_content"))]
    return any(fields) or bool(delta.get("tool_calls"))


def without_text(chunk: Json) -> Json:
    """The chunk with its text taken out."""
    chunk = copy.deepcopy(chunk)
    choice = chunk["choices"][0]
    if "text" in choice:
        choice["text"] = ""
    if "delta" in choice:
        choice["delta"] = {}
    return chunk


def with_usage(reply: Json, change: Any) -> Json:
    """A copy whose usage was changed in place by ``change``."""
    reply = {**reply, "usage": copy.deepcopy(reply["usage"])}
    change(reply["usage"])
    return reply


def without(body: Json, *names: str) -> Json:
    """A copy without these keys."""
    return {key: value for key, value in body.items() if key not in names}
