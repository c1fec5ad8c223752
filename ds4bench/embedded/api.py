"""Requests of the OpenAI API: what is accepted, and errors in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ds4bench.embedded.sequence import SamplingParams
from ds4bench.embedded.tokenizer import ASSISTANT, BOS, END_THINK, EOS, THINK, USER

_Model = TypeVar("_Model", bound=BaseModel)


class ApiError(Exception):
    """A request that cannot be served: an HTTP status and a message for a person."""

    def __init__(self, status: int, message: str, *, param: str | None = None, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Common(BaseModel):
    """Fields that both endpoints share. Unknown fields are ignored, as vLLM does."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: Literal[1] = 1
    cache_salt: str = ""

    def sampling(self, max_tokens: int, logprobs: int | None) -> SamplingParams:
        """The engine's sampling parameters."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            seed=self.seed,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            min_tokens=self.min_tokens,
            logprobs=logprobs,
        )


class CompletionRequest(Common):
    """``POST /v1/completions``."""

    prompt: str | list[int]
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TextPart(BaseModel):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Common):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def thinking(self) -> bool:
        """Whether the reply starts inside reasoning. Off unless asked for, by either of the two usual names."""
        kwargs = self.chat_template_kwargs
        return bool(kwargs.get("thinking") or kwargs.get("enable_thinking"))


class TokenizeRequest(BaseModel):
    """``POST /tokenize``: a prompt, or messages as the chat endpoint would render them."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    chat_template_kwargs: dict[str, Any] = {}


class DetokenizeRequest(BaseModel):
    """``POST /detokenize``."""

    tokens: list[int]


def parse(model: type[_Model], body: Any) -> _Model:
    """Validate a decoded JSON body. Raises ApiError that names the field and what is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else "body"
        raise ApiError(400, f"{where}: {first['msg']}", param=where) from None


def render_chat(messages: list[Message], *, thinking: bool) -> str:
    """DeepSeek-V4's prompt for a conversation: no newline glue, one opener for the reply."""
    opener = THINK if thinking else END_THINK
    parts = [BOS]
    for message in messages:
        if message.role == "assistant":
            parts += [END_THINK, message.text(), EOS]
        elif message.role == "user":
            parts += [USER, message.text(), ASSISTANT]
        else:
            parts.append(message.text())
    return "".join(parts) + (opener if messages[-1].role != "assistant" else "")
