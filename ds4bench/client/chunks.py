"""Typed decoding of streamed chunks, both endpoints and every engine's field names, after the stream has ended."""

from __future__ import annotations

from typing import Any

import msgspec


class ToolFunction(msgspec.Struct):
    """Name and argument text of a tool call, or a piece of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int = 0
    id: str | None = None
    function: ToolFunction | None = None


class Delta(msgspec.Struct):
    """What a chat chunk adds. vLLM streams ``reasoning``; SGLang and the DeepSeek API ``reasoning_content``."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct):
    """The only choice of a chunk."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class PromptDetails(msgspec.Struct):
    """OpenAI's details of prompt tokens."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """OpenAI's details of completion tokens."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts. ``prompt_cache_hit_tokens`` is the DeepSeek API's name."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def cached(self) -> int | None:
        """Prompt tokens from the prefix cache; None when the serve does not say."""
        if self.prompt_tokens_details is not None and self.prompt_tokens_details.cached_tokens is not None:
            return self.prompt_tokens_details.cached_tokens
        return self.prompt_cache_hit_tokens

    @property
    def reasoned(self) -> int | None:
        """Reasoning tokens; None when the serve does not say."""
        details = self.completion_tokens_details
        return self.reasoning_tokens if details is None else details.reasoning_tokens


class Chunk(msgspec.Struct):
    """One streamed chunk, or an error in its place."""

    choices: list[Choice] = []
    model: str | None = None
    usage: Usage | None = None
    error: Any = None

    @property
    def choice(self) -> Choice | None:
        """The choice, where there is one."""
        return self.choices[0] if self.choices else None


class Message(msgspec.Struct):
    """The message of a reply that was not streamed."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class WholeChoice(msgspec.Struct):
    """The only choice of a reply that was not streamed."""

    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class WholeReply(msgspec.Struct):
    """A reply that was not streamed, or an error in its place."""

    choices: list[WholeChoice] = []
    model: str | None = None
    usage: Usage | None = None
    error: Any = None


CUT_SHORT = {
    "abort": "the engine gave the request up",
    "error": "the engine failed in the middle of it",
    "content_filter": "a filter withheld the rest",
    "insufficient_system_resource": "the API ran out of resources",
}
"""Reasons at the end of a reply that is no whole answer. vLLM and SGLang say the first two, DeepSeek's API the others."""


def cut_short(finish_reason: str | None) -> tuple[str, str] | None:
    """Error word and detail for a reply that the serve did not bring to its end; None for one that it did."""
    why = CUT_SHORT.get(finish_reason or "")
    return (f"finish_{finish_reason}", f"the reply ended with finish_reason {finish_reason}: {why}") if why else None


_decoder = msgspec.json.Decoder(Chunk)
_whole_decoder = msgspec.json.Decoder(WholeReply)


def decode_chunk(data: bytes) -> Chunk:
    """Decode one event. Raises msgspec.DecodeError, whose message names the place."""
    return _decoder.decode(data)


def decode_whole(data: bytes) -> WholeReply:
    """Decode a reply that was not streamed. Raises msgspec.DecodeError, whose message names the place."""
    return _whole_decoder.decode(data)
