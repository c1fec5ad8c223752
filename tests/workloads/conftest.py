"""A serve with a real BPE tokenizer of its own, with or without /tokenize."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ds4bench.core import Fingerprint
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of
from tests.serving import running

_TEACHING = (
    "The keeper counted every lantern by the harbour before the storm, and the baker carried a basket of bread to the "
    "library. What are the three secret codes of the journal? Answer with the first, the second and the third code. "
)


@dataclass
class CountingServe:
    """Where the serve is and what it was asked. ``template`` tokens are added to every chat prompt."""

    tokenizer: Tokenizer
    template: int = 5
    url: str = ""
    tokenized: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    shutting_down: bool = False

    def count(self, body: dict[str, Any]) -> int:
        """Prompt tokens of a request body, as this serve counts them."""
        if "messages" in body:
            return self.template + sum(self._length(m["content"]) for m in body["messages"])
        return 1 + self._length(body["prompt"])

    def _length(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def endpoint(self, engine: str = "vllm", max_model_len: int | None = None) -> Endpoint:
        """What a target would give for this serve."""
        fingerprint = Fingerprint(engine=engine, model="m")
        return Endpoint(
            base_url=self.url,
            model="m",
            dialect=dialect_of(engine),
            fingerprint=fingerprint,
            max_model_len=max_model_len,
        )

    async def on_tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        if self.shutting_down:
            return JSONResponse({"error": {"message": "cannot schedule new futures after shutdown"}}, 500)
        count = self.count(await request.json())
        self.tokenized.append(count)
        return JSONResponse({"count": count, "max_model_len": 1_000_000})

    async def on_completion(self, request: Request) -> Response:
        """POST to either completion endpoint: usage only."""
        count = self.count(await request.json())
        self.completed.append(count)
        return JSONResponse({"choices": [{}], "usage": {"prompt_tokens": count, "completion_tokens": 1}})


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE that merges some words of the filler and splits others."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        [_TEACHING] * 4, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return built


@pytest.fixture
def make_serve(tokenizer: Tokenizer) -> Iterator[Callable[..., CountingServe]]:
    """Starts serves; ``tokenize=False`` leaves the page out."""
    with contextlib.ExitStack() as stack:

        def make(*, tokenize: bool = True) -> CountingServe:
            serve = CountingServe(tokenizer)
            routes = [
                Route(path, serve.on_completion, methods=["POST"])
                for path in ("/v1/completions", "/v1/chat/completions")
            ]
            if tokenize:
                routes.append(Route("/tokenize", serve.on_tokenize, methods=["POST"]))
            serve.url = stack.enter_context(running(Starlette(routes=routes)))
            return serve

        yield make
