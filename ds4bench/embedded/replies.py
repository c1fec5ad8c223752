"""Replies of the two endpoints, streamed and whole, from the engine's outputs."""

from __future__ import annotations

import time
from typing import Any, Protocol

from ds4bench.embedded.chat.dsml import ToolCallDelta
from ds4bench.embedded.chat.parse import Delta, ParsedReply, ReplyParser, TextDelta
from ds4bench.embedded.chat.reasoning import Kind
from ds4bench.embedded.engine import Output
from ds4bench.embedded.sequence import TokenLogprob
from ds4bench.embedded.stopping import TokenText
from ds4bench.embedded.tokenizer import Tokenizer

Json = dict[str, Any]


class Reply(Protocol):
    """One reply in the making."""

    def envelope(self) -> Json: ...
    def opening(self) -> list[Json]: ...
    def chunks(self, output: Output) -> list[Json]: ...
    def whole(self) -> Json: ...
    def usage(self) -> Json: ...


class _Counting:
    """What both endpoints share: envelope and usage."""

    chunk_name: str

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self.reply_id = reply_id
        self.model = model
        self.tokenizer = tokenizer
        self.prompt_tokens = prompt_tokens
        self.created = int(time.time())
        self.output_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens: int | None = None
        self.finish_reason: str | None = None

    def envelope(self) -> Json:
        """Head of a streamed chunk."""
        return {"id": self.reply_id, "object": self.chunk_name, "created": self.created, "model": self.model}

    def usage(self) -> Json:
        """Token counts so far."""
        usage: Json = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage

    def _count(self, output: Output) -> None:
        self.output_tokens = output.num_output_tokens
        self.cached_tokens = output.num_cached_tokens
        self.finish_reason = output.finish_reason

    def _token(self, token_id: int) -> str:
        return self.tokenizer.token_text(token_id)


class CompletionReply(_Counting):
    """``/v1/completions``. ``by_id``: logprobs name tokens ``token_id:N`` and not by their text."""

    chunk_name = "text_completion"

    def __init__(
        self, reply_id: str, model: str, tokenizer: Tokenizer, prompt_tokens: int, *, by_id: bool = False
    ) -> None:
        super().__init__(reply_id, model, tokenizer, prompt_tokens)
        self._by_id = by_id
        self._text = ""
        self._pieces: list[TokenText] = []

    def opening(self) -> list[Json]:
        """Nothing precedes the text."""
        return []

    def chunks(self, output: Output) -> list[Json]:
        """One chunk an output."""
        self._count(output)
        text = "".join(piece.text for piece in output.tokens)
        logprobs = self._logprobs(output.tokens, len(self._text))
        self._text += text
        self._pieces += output.tokens
        return [{**self.envelope(), "choices": [self._choice(text, logprobs)]}]

    def whole(self) -> Json:
        """The unstreamed reply."""
        choice = self._choice(self._text, self._logprobs(self._pieces, 0))
        return {**self.envelope(), "choices": [choice], "usage": self.usage()}

    def _token(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._by_id else super()._token(token_id)

    def _choice(self, text: str, logprobs: Json | None) -> Json:
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": self.finish_reason}

    def _logprobs(self, pieces: list[TokenText], offset: int) -> Json | None:
        if not any(piece.logprob for piece in pieces):
            return None
        out: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece in pieces:
            if piece.logprob is not None:
                out["tokens"].append(self._token(piece.token_id))
                out["token_logprobs"].append(piece.logprob.logprob)
                out["top_logprobs"].append({self._token(t): p for t, p in piece.logprob.top})
                out["text_offset"].append(offset)
            offset += len(piece.text)
        return out


class ChatReply(_Counting):
    """``/v1/chat/completions``: reasoning, content and tool calls apart, as the parser finds them.

    Tokens count as reasoning while the parser is inside it, ``</think>`` included. ``reasoning_field`` is reasoning's name
    in messages and deltas.
    """

    chunk_name = "chat.completion.chunk"

    def __init__(
        self,
        reply_id: str,
        model: str,
        tokenizer: Tokenizer,
        prompt_tokens: int,
        parser: ReplyParser,
        reasoning_field: str = "reasoning",
    ) -> None:
        super().__init__(reply_id, model, tokenizer, prompt_tokens)
        self._parser = parser
        self._fields: dict[Kind, str] = {"reasoning": reasoning_field, "content": "content"}
        self._reply = ParsedReply()
        self.reasoning_tokens = 0 if parser.in_reasoning else None
        self._logprobs: list[Json] = []

    def opening(self) -> list[Json]:
        """The role, before any token."""
        return [self._chunk({"role": "assistant", "content": ""}, None, None)]

    def chunks(self, output: Output) -> list[Json]:
        """One chunk for each kind of thing in the output; one with empty text if all of it is held back."""
        self._count(output)
        deltas = [delta for piece in output.tokens for delta in self._parse(piece)]
        if self.finish_reason is not None:
            deltas += self._parser.finish()
        for delta in deltas:
            self._reply.add(delta)
        if self.finish_reason == "stop" and self._reply.tool_calls:
            self.finish_reason = "tool_calls"
        logprobs = [self._logprob(piece.logprob) for piece in output.tokens if piece.logprob]
        self._logprobs += logprobs
        kind: Kind = "reasoning" if self._parser.in_reasoning else "content"
        payloads = _payloads(deltas, self._fields) or [{self._fields[kind]: ""}]
        chunks = [self._chunk(payload, None, None) for payload in payloads]
        chunks[0]["choices"][0]["logprobs"] = {"content": logprobs} if logprobs else None
        chunks[-1]["choices"][0]["finish_reason"] = self.finish_reason
        return chunks

    def whole(self) -> Json:
        """The unstreamed reply."""
        calls = [call.to_json() for call in self._reply.tool_calls]
        message: Json = {
            "role": "assistant",
            "content": self._reply.content or (None if calls else ""),
            self._fields["reasoning"]: self._reply.reasoning or None,
        }
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs} if self._logprobs else None,
            "finish_reason": self.finish_reason,
        }
        return {**self.envelope(), "object": "chat.completion", "choices": [choice], "usage": self.usage()}

    def _parse(self, piece: TokenText) -> list[Delta]:
        if self._parser.in_reasoning:
            self.reasoning_tokens = (self.reasoning_tokens or 0) + 1
        return self._parser.feed(piece.text)

    def _chunk(self, delta: Json, logprobs: list[Json] | None, finish_reason: str | None) -> Json:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": {"content": logprobs} if logprobs else None,
            "finish_reason": finish_reason,
        }
        return {**self.envelope(), "choices": [choice]}

    def _logprob(self, logprob: TokenLogprob) -> Json:
        def entry(token_id: int, value: float) -> Json:
            text = self._token(token_id)
            return {"token": text, "logprob": value, "bytes": list(text.encode())}

        top = [entry(token_id, value) for token_id, value in logprob.top]
        return {**entry(logprob.token_id, logprob.logprob), "top_logprobs": top}


def _payloads(deltas: list[Delta], fields: dict[Kind, str]) -> list[Json]:
    """``delta`` of each chunk: neighbours of one kind, or of one tool call, go together."""
    payloads: list[Json] = []
    for delta in deltas:
        last = payloads[-1] if payloads else {}
        if isinstance(delta, TextDelta):
            field = fields[delta.kind]
            if field in last:
                last[field] += delta.text
            else:
                payloads.append({field: delta.text})
        elif delta.id is None and "tool_calls" in last:  # arguments of the call that the last chunk is about
            last["tool_calls"][0]["function"]["arguments"] += delta.arguments
        else:
            payloads.append({"tool_calls": [_tool_call(delta)]})
    return payloads


def _tool_call(delta: ToolCallDelta) -> Json:
    """A tool call in a chunk; id, type and name come once."""
    if delta.id is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}
