"""Messages, tools and response formats of OpenAI's API as ``deepseek-recipe``, DeepSeek's own library, takes them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import deepseek_recipe

Json = Mapping[str, Any]

SEPARATE = f"\ue000{uuid.uuid4().hex}\ue000"  # before a user text that must not be merged into the turn before it


class ChatFormatError(ValueError):
    """A conversation that cannot be rendered; ``param`` is the field of the request that is wrong."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def turns(messages: Sequence[Json], *, thinking: bool) -> list[deepseek_recipe.Message]:
    """The library's messages. Without ``thinking`` there is no reasoning in them.

    The library merges neighbours on the user's side; a text that begins with ``SEPARATE`` is to stand alone. Raises
    ChatFormatError.
    """
    messages = _with_ordered_ids(messages)
    return [_turn(message, index, messages, thinking=thinking) for index, message in enumerate(messages)]


def tool_definition(tool: Json) -> deepseek_recipe.ToolDefinition:
    """A tool of OpenAI's API. Raises ChatFormatError for a schema with a number that JSON does not hold."""
    function = tool["function"]
    try:
        return deepseek_recipe.ToolDefinition(function["name"], function.get("description"), function.get("parameters"))
    except OverflowError as error:
        raise ChatFormatError(f"tool {function['name']!r}: {error}", "tools") from None


def response_options(wanted: Json | None) -> dict[str, Any]:
    """Arguments of the library's ``Conversation`` for a response format. Raises ChatFormatError for an unknown one."""
    kind = wanted.get("type") if wanted else "text"
    if kind in {"text", "json_object"}:
        return {"response_format": kind}
    schema = ((wanted or {}).get("json_schema") or {}).get("schema")
    if kind != "json_schema" or schema is None:
        raise ChatFormatError(
            "response_format must be text, json_object, or json_schema with a schema", "response_format"
        )
    return {"response_schema": schema}


def _turn(message: Json, index: int, messages: Sequence[Json], *, thinking: bool) -> deepseek_recipe.Message:
    role, text = message.get("role"), _text(message.get("content"))
    where = f"messages[{index}]"
    if message.get("task") is not None and (index < len(messages) - 1 or role not in {"user", "developer"}):
        raise ChatFormatError(f"{where}: only the last message, of a user or developer, may have a task", "messages")
    match role:
        case "system":
            return deepseek_recipe.SystemMessage(text)
        case "user":
            after_developer = index > 0 and messages[index - 1].get("role") == "developer"
            return deepseek_recipe.UserMessage(SEPARATE + text if after_developer else text)
        case "developer":
            if not text:
                raise ChatFormatError(f"{where}: a developer message needs content", "messages")
            return deepseek_recipe.UserMessage(SEPARATE + text)
        case "assistant":
            reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
            calls = [_call(call, where) for call in message.get("tool_calls") or ()]
            return deepseek_recipe.AssistantMessage(text, reasoning if thinking else None, calls or None)
        case "tool":
            return deepseek_recipe.ToolMessage(text, message.get("tool_call_id"))
        case "latest_reminder":
            return deepseek_recipe.LatestReminderMessage(text)
    raise ChatFormatError(f"{where}: unknown role {role!r}", "messages")


def _with_ordered_ids(messages: Sequence[Json]) -> list[Json]:
    """Call ids that sort in the order of the calls: the library sorts calls and results by id, not by call order."""
    ids: dict[Any, str] = {}
    ordered: list[Json] = []
    for message in messages:
        calls = message.get("tool_calls") if message.get("role") == "assistant" else None
        if calls:
            ids = {call.get("id"): f"{number:06}" for number, call in enumerate(calls)}
            numbered = [{**call, "id": f"{number:06}"} for number, call in enumerate(calls)]
            ordered.append({**message, "tool_calls": numbered})
        elif message.get("role") == "tool":
            ordered.append({**message, "tool_call_id": ids.get(message.get("tool_call_id"), "000000")})
        else:
            ordered.append(message)
    return ordered


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    raise ChatFormatError("only text parts are understood in content", "messages")


def _call(call: Json, where: str) -> deepseek_recipe.ToolCall:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict):
        raise ChatFormatError(f"{where}: the arguments of {function['name']!r} are not a JSON object", "messages")
    return deepseek_recipe.ToolCall(call.get("id") or "", function["name"], json.dumps(arguments, ensure_ascii=False))
