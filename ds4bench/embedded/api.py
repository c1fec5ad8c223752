"""Requests of the OpenAI API: what is accepted, and errors in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ds4bench.embedded.chat.conversation import ChatFormatError
from ds4bench.embedded.chat.encoding import Profile, Prompt, render, thinking_of
from ds4bench.embedded.sequence import SamplingParams

_Model = TypeVar("_Model", bound=BaseModel)


def _not_strict(value: bool | None) -> bool | None:
    if value:
        raise ValueError("strict needs constrained decoding, which this engine does not have; leave it out")
    return value


def _not_single(value: bool | None) -> bool | None:
    if value is False:
        raise ValueError("a single call needs constrained decoding, which this engine does not have; leave it out")
    return value


NotStrict = Annotated[bool | None, AfterValidator(_not_strict)]


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
    return_tokens_as_token_ids: bool = False
    """Name tokens ``token_id:N`` in ``logprobs``: several tokens may have one text."""


class TextPart(BaseModel):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    """What a tool call of the history called."""

    name: str
    arguments: str | dict[str, Any] | None = None


class MessageToolCall(BaseModel):
    """A tool call of the history."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    """One message of a conversation. Reasoning is read under both of its names."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "latest_reminder"]
    content: str | list[TextPart] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    task: str | None = None


class Function(BaseModel):
    """A function that the model may call. ``strict`` needs constrained decoding."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, pattern=r"^[^\"\n<>]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: NotStrict = None


class Tool(BaseModel):
    """A tool; there are only functions."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(BaseModel):
    """The function that a tool choice names."""

    name: str


class NamedToolChoice(BaseModel):
    """The one tool to call."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(BaseModel):
    """A schema that the prompt asks for. ``strict`` needs constrained decoding."""

    model_config = ConfigDict(extra="ignore")

    json_schema: dict[str, Any] = Field(alias="schema")
    strict: NotStrict = None


class ResponseFormat(BaseModel):
    """What the prompt asks the reply to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Conversation(BaseModel):
    """What a prompt is rendered from.

    This engine samples freely. What only constrained decoding could keep is refused: ``strict`` tools and schemas,
    ``parallel_tool_calls: false``. ``required`` and named tool choices are served by opening the call in the prompt.
    """

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: Annotated[bool | None, AfterValidator(_not_single)] = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    def tools_for_reply(self) -> list[dict[str, Any]]:
        """The tools that the reply may call, as the chat format takes them; none if the choice is ``none``."""
        return [] if self.tool_choice == "none" else [tool.model_dump() for tool in self.tools or []]

    def prompt(self, profile: Profile) -> Prompt:
        """The rendered prompt. Raises ApiError if the conversation cannot be rendered."""
        choice = self.tool_choice or "auto"
        response_format = self.response_format
        try:
            return render(
                [message.model_dump() for message in self.messages],
                thinking_of(self.chat_template_kwargs or {}, self.reasoning_effort, profile),
                tools=self.tools_for_reply(),
                tool_choice=choice.function.name if isinstance(choice, NamedToolChoice) else choice,
                response_format=response_format.model_dump(by_alias=True) if response_format else None,
            )
        except ChatFormatError as error:
            raise ApiError(400, str(error), param=error.param) from None
        except UnicodeEncodeError:
            raise ApiError(400, "the text has half of a surrogate pair", param="messages") from None


class ChatRequest(Common, Conversation):
    """``POST /v1/chat/completions``."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0


class TokenizeRequest(BaseModel):
    """``POST /tokenize`` of a prompt. With ``messages`` the body is a ``Conversation``, as the chat endpoint renders it."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    add_special_tokens: bool = True


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
