"""Replies of the two endpoints, streamed and whole, from the engine's outputs."""

from __future__ import annotations

import time
from typing import Any, Protocol

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
    """``/v1/completions``."""

    chunk_name = "text_completion"

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        super().__init__(reply_id, model, tokenizer, prompt_tokens)
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
    """``/v1/chat/completions``. In thinking mode the text up to ``</think>`` is ``reasoning``."""

    chunk_name = "chat.completion.chunk"

    def __init__(self, reply_id: str, model: str, tokenizer: Tokenizer, prompt_tokens: int, thinking: bool) -> None:
        super().__init__(reply_id, model, tokenizer, prompt_tokens)
        self._in_reasoning = thinking
        self.reasoning_tokens = 0 if thinking else None
        self._texts = {"reasoning": "", "content": ""}
        self._logprobs: list[Json] = []

    def opening(self) -> list[Json]:
        """The role, before any token."""
        return [self._chunk({"role": "assistant", "content": ""}, None, None)]

    def chunks(self, output: Output) -> list[Json]:
        """One chunk for each kind of text in the output; one with empty text if it had none."""
        self._count(output)
        parts: list[tuple[str, str, list[Json]]] = []
        for piece in output.tokens:
            kind = "reasoning" if self._in_reasoning else "content"
            if self._in_reasoning and self.reasoning_tokens is not None:
                self.reasoning_tokens += 1
            if piece.token_id == self.tokenizer.end_think_id:
                self._in_reasoning = False
            logprobs = [self._logprob(piece.logprob)] if piece.logprob else []
            if parts and parts[-1][0] == kind:
                parts[-1] = (kind, parts[-1][1] + piece.text, parts[-1][2] + logprobs)
            else:
                parts.append((kind, piece.text, logprobs))
        if not parts:
            parts = [("content", "", [])]
        for kind, text, logprobs in parts:
            self._texts[kind] += text
            self._logprobs += logprobs
        chunks = [self._chunk({kind: text}, logprobs, None) for kind, text, logprobs in parts]
        chunks[-1]["choices"][0]["finish_reason"] = self.finish_reason
        return chunks

    def whole(self) -> Json:
        """The unstreamed reply."""
        message = {
            "role": "assistant",
            "content": self._texts["content"],
            "reasoning": self._texts["reasoning"] or None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs} if self._logprobs else None,
            "finish_reason": self.finish_reason,
        }
        return {**self.envelope(), "object": "chat.completion", "choices": [choice], "usage": self.usage()}

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
