"""The OpenAI-compatible HTTP server of the embedded engine."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ds4bench.embedded import api
from ds4bench.embedded.chat.encoding import Profile, Prompt
from ds4bench.embedded.chat.parse import ReplyParser
from ds4bench.embedded.engine import Engine, EngineDeadError, Output
from ds4bench.embedded.replies import ChatReply, CompletionReply, Reply
from ds4bench.embedded.sequence import SamplingParams

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ServeInfo:
    """What ``/version`` and ``/v1/models`` say about this serve."""

    version: str
    model: str
    weights: str
    model_revision: str
    prefix_caching: bool
    engine: str = "ds4bench-embedded"
    speculative: str | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class ChatFormat:
    """What stands between messages and tokens: rendering a conversation, parsing its reply, naming the reply's fields.

    ``profile`` says whose chat format is spoken: ``chat.encoding.thinking_of`` has what differs. In both a request
    switches thinking by ``chat_template_kwargs.thinking`` (or ``enable_thinking``); without it thinking is on in ``0.33``,
    as in vLLM 0.33, and off in ``2026-05``.
    """

    def __init__(self, profile: Profile = "0.33") -> None:
        self.profile = profile
        self.reasoning_field = "reasoning"

    def render(self, conversation: api.Conversation) -> Prompt:
        """The conversation's prompt. Raises ApiError if it cannot be rendered."""
        return conversation.prompt(self.profile)

    def parser(self, request: api.ChatRequest, prompt: Prompt) -> ReplyParser:
        """A parser for the reply."""
        return ReplyParser(thinking=prompt.thinking, tools=request.tools_for_reply(), opened=prompt.opened)


def build_app(engine: Engine, info: ServeInfo, chat: ChatFormat) -> Starlette:
    """The application; starts and stops the engine's thread with its own life."""
    server = _Server(engine, info, chat)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    routes = [
        Route("/health", server.health),
        Route("/version", server.version),
        Route("/metrics", server.metrics),
        Route("/v1/models", server.models),
        Route("/v1/completions", _guarded(server.completions), methods=["POST"]),
        Route("/v1/chat/completions", _guarded(server.chat), methods=["POST"]),
        Route("/tokenize", _guarded(server.tokenize), methods=["POST"]),
        Route("/detokenize", _guarded(server.detokenize), methods=["POST"]),
        Route("/reset_prefix_cache", server.reset_prefix_cache, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _guarded(handler: Handler) -> Handler:
    """Turn errors into OpenAI-shaped answers."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except api.ApiError as error:
            return JSONResponse(error.body, status_code=error.status)
        except EngineDeadError as error:
            body = api.ApiError(503, str(error), kind="service_unavailable").body
            return JSONResponse(body, status_code=503)

    return guarded


class _Server:
    """Handlers over one engine."""

    def __init__(self, engine: Engine, info: ServeInfo, chat: ChatFormat) -> None:
        self.engine = engine
        self.info = info
        self.chat_format = chat
        self.created = int(time.time())

    async def health(self, _: Request) -> Response:
        if self.engine.dead is not None:
            return PlainTextResponse(self.engine.dead, status_code=503)
        return PlainTextResponse("")

    async def version(self, _: Request) -> Response:
        return JSONResponse(asdict(self.info))

    async def metrics(self, _: Request) -> Response:
        return Response(self.engine.metrics.render(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        card = {
            "id": self.info.model,
            "object": "model",
            "created": self.created,
            "owned_by": "ds4bench",
            "max_model_len": self.engine.max_model_len,
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def reset_prefix_cache(self, _: Request) -> Response:
        self.engine.reset_prefix_cache()
        return Response()

    async def tokenize(self, request: Request) -> Response:
        content = await _json(request)
        if not isinstance(content, dict) or not content.keys() & {"messages", "prompt"}:
            raise api.ApiError(400, "either prompt or messages is needed", param="prompt")
        if "messages" in content:
            prompt = self.chat_format.render(api.parse(api.Conversation, content))
            tokens = self.engine.tokenizer.encode(prompt.text)
        else:
            body = api.parse(api.TokenizeRequest, content)
            tokens = self._prompt_ids(body.prompt, add_bos=body.add_special_tokens)
        return JSONResponse({"count": len(tokens), "max_model_len": self.engine.max_model_len, "tokens": tokens})

    async def detokenize(self, request: Request) -> Response:
        body = api.parse(api.DetokenizeRequest, await _json(request))
        self._check_token_ids(body.tokens)
        return JSONResponse({"prompt": self.engine.tokenizer.decode(body.tokens)})

    async def completions(self, request: Request) -> Response:
        body = api.parse(api.CompletionRequest, await _json(request))
        if isinstance(body.prompt, str):
            prompt_ids = self._prompt_ids(body.prompt, add_bos=True)
        else:
            self._check_token_ids(body.prompt)
            prompt_ids = body.prompt
        params = body.sampling(body.max_tokens, body.logprobs)
        reply = CompletionReply(
            f"cmpl-{uuid.uuid4().hex}", self.info.model, self.engine.tokenizer, len(prompt_ids),
            by_id=body.return_tokens_as_token_ids,
        )  # fmt: skip
        return await self._answer(request, body, prompt_ids, params, reply)

    async def chat(self, request: Request) -> Response:
        body = api.parse(api.ChatRequest, await _json(request))
        prompt = self.chat_format.render(body)
        prompt_ids = self.engine.tokenizer.encode(prompt.text)
        room = max(1, self.engine.max_model_len - len(prompt_ids))
        max_tokens = body.max_completion_tokens or body.max_tokens or room
        params = body.sampling(max_tokens, body.top_logprobs if body.logprobs else None)
        parser = self.chat_format.parser(body, prompt)
        reply_id = f"chatcmpl-{uuid.uuid4().hex}"
        field = self.chat_format.reasoning_field
        reply = ChatReply(reply_id, self.info.model, self.engine.tokenizer, len(prompt_ids), parser, field)
        return await self._answer(request, body, prompt_ids, params, reply)

    async def _answer(
        self, request: Request, body: api.Common, prompt_ids: list[int], params: SamplingParams, reply: Reply
    ) -> Response:
        if body.model is not None and body.model != self.info.model:
            message = f"the model {body.model!r} does not exist; this serve has {self.info.model!r}"
            raise api.ApiError(404, message, param="model", kind="not_found_error")
        self._check_length(len(prompt_ids), params.max_tokens)
        if self.engine.dead is not None:
            raise EngineDeadError(self.engine.dead)
        outputs = self.engine.generate(prompt_ids, params, body.cache_salt)
        if body.stream:
            options = body.stream_options or api.StreamOptions()
            return StreamingResponse(_events(outputs, reply, options), media_type="text/event-stream")
        return JSONResponse(await _whole(request, outputs, reply))

    def _prompt_ids(self, prompt: str, *, add_bos: bool) -> list[int]:
        token_ids = self.engine.tokenizer.encode(prompt)
        bos = self.engine.tokenizer.bos_id
        return [bos, *token_ids] if add_bos and token_ids[:1] != [bos] else token_ids

    def _check_token_ids(self, token_ids: list[int]) -> None:
        bad = next((t for t in token_ids if not 0 <= t < self.engine.tokenizer.vocab_size), None)
        if bad is not None:
            limit = self.engine.tokenizer.vocab_size - 1
            raise api.ApiError(400, f"token id {bad} is outside 0..{limit}", param="prompt")

    def _check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        limit = self.engine.max_model_len
        if prompt_tokens == 0:
            raise api.ApiError(400, "the prompt is empty", param="prompt")
        if prompt_tokens + max_tokens > limit:
            message = (
                f"the maximum context length is {limit} tokens, but the prompt has {prompt_tokens} and up to "
                f"{max_tokens} were asked for: {prompt_tokens + max_tokens} together"
            )
            raise api.ApiError(400, message, param="max_tokens")


async def _events(outputs: AsyncIterator[Output], reply: Reply, options: api.StreamOptions) -> AsyncIterator[bytes]:
    """Server-sent events of a stream."""
    usage = options.include_usage and options.continuous_usage_stats
    for chunk in reply.opening():
        yield _event({**chunk, "usage": reply.usage()} if usage else chunk)
    try:
        async for output in outputs:
            for chunk in reply.chunks(output):
                yield _event({**chunk, "usage": reply.usage()} if usage else chunk)
    except EngineDeadError as error:
        yield _event(api.ApiError(500, str(error), kind="internal_error").body)
        return
    if options.include_usage:
        yield _event({**reply.envelope(), "choices": [], "usage": reply.usage()})
    yield b"data: [DONE]\n\n"


async def _whole(request: Request, outputs: AsyncIterator[Output], reply: Reply) -> dict[str, Any]:
    """The whole reply at once; a client that goes away ends the generation."""

    async def collect() -> None:
        async for output in outputs:
            reply.chunks(output)

    async def until_gone() -> None:
        while not await request.is_disconnected():  # noqa: ASYNC110 - the request offers no event
            await asyncio.sleep(0.2)

    work, gone = asyncio.ensure_future(collect()), asyncio.ensure_future(until_gone())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise api.ApiError(499, "the client went away")
        await work
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
    return reply.whole()


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise api.ApiError(400, f"the body is not JSON: {error}") from None
