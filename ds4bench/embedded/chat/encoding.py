"""Prompts from conversations in DeepSeek-V4's chat format.

``deepseek-recipe``, DeepSeek's own library, renders the conversation. Own code stands here for what it does not cover:

* whether to think and how hard, from the fields of a request, and the two profiles of that (``thinking_of``);
* ``developer`` messages, task tokens, a named tool choice;
* tool calls and results in the order of the calls (the library sorts them by id);
* reasoning of earlier turns kept without tools (the library keeps it only with tools), and no reasoning at all in the
  history of chat mode (the library keeps it there, vLLM does not).

Where the library differs from vLLM's encoder it is followed: system messages stand at the beginning wherever they are
in the conversation, a tool without a description gets an empty one, tool choice ``none`` leaves the tools out, and a
conversation that ends with an assistant message opens a new reply. A call without arguments has no blank line in it;
vLLM's has one, and so had the seed era's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import deepseek_recipe

from ds4bench.embedded.chat.conversation import (
    SEPARATE,
    ChatFormatError,
    Json,
    response_options,
    tool_definition,
    turns,
)
from ds4bench.embedded.chat.markers import INVOKE, STARTS
from ds4bench.embedded.chat.special_tokens import ASSISTANT, BOS, END_THINK, TASKS, THINK, USER

ToolChoice = Literal["auto", "none", "required"] | str  # any other str is the name of the tool to call
Profile = Literal["2026-05", "0.33"]
Effort = Literal["low", "high", "max"]


@dataclass(frozen=True)
class Thinking:
    """Whether to think, and the preamble that says how hard: none (low), "Absolute maximum" (high), "Beyond maximum" (max).

    ``drop_earlier``: reasoning of the turns before the last user message is left out. Tools switch that off.
    """

    enabled: bool = True
    effort: Effort = "high"
    drop_earlier: bool = True


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. ``thinking``: the reply begins inside reasoning. ``opened``: what of the reply is in the prompt."""

    text: str
    thinking: bool
    opened: str = ""


def thinking_of(chat_template_kwargs: Json, reasoning_effort: str | None = None, profile: Profile = "0.33") -> Thinking:
    """What a request asks for, as vLLM reads it.

    ``thinking`` and ``enable_thinking`` mean the same; either one true is on, and effort ``none`` is off. What stands in
    ``chat_template_kwargs`` counts before the field ``reasoning_effort``. The profiles:

    * ``0.33`` (vLLM 0.33): on unless switched off. Preamble of ``low``, ``minimal`` and ``medium``: none; of ``max``:
      "Beyond maximum"; of anything else, and without an effort: "Absolute maximum".
    * ``2026-05`` (vLLM of May 2026, when the first gates ran): off unless switched on. Preamble of ``max``: "Absolute
      maximum", the text that is ``high`` now; otherwise none. Further differences: see the module.
    """
    given = {key: value for key, value in chat_template_kwargs.items() if value is not None}
    switches = [bool(given[key]) for key in ("thinking", "enable_thinking") if key in given]
    effort = given.get("reasoning_effort", reasoning_effort)
    enabled = (any(switches) if switches else profile == "0.33") and effort != "none"
    drop = bool(given.get("drop_thinking", True))
    return Thinking(enabled, _preamble(effort, profile), drop)


def render(
    messages: Sequence[Json],
    thinking: Thinking = Thinking(),
    *,
    tools: Sequence[Json] = (),
    tool_choice: ToolChoice = "auto",
    response_format: Json | None = None,
) -> Prompt:
    """The prompt of a conversation; messages, tools and response format as in OpenAI's API.

    Beyond that API, messages have the role ``latest_reminder``, and the last one may have a ``task`` (a key of ``TASKS``):
    the reply is then that task's answer. ``reasoning`` of assistant messages may also be called ``reasoning_content``.

    A tool choice of ``required`` or a tool's name opens the call in the prompt, so that the reply begins inside it. That
    is as far as it goes without constrained decoding: whether the call is well-formed is up to the model.

    Raises ChatFormatError.
    """
    tools = _offered(tools, tool_choice)
    keeping = thinking.enabled and (bool(tools) or not thinking.drop_earlier)
    if thinking.enabled and not keeping:
        messages = _without_early_developers(messages)
    text = _rendered(messages, thinking, tools, tool_choice, response_format, keep_reasoning=keeping and not tools)
    task = messages[-1].get("task") if messages else None
    if task is not None:
        return Prompt(_with_task(text, task, thinking), thinking=False)
    opened = _opened(tool_choice)
    if tool_choice not in {"auto", "none", "required"}:
        text += opened.removeprefix(_opened("required"))
    return Prompt(text, thinking.enabled and not opened, opened)


def render_reply(message: Json, thinking: Thinking = Thinking()) -> str:
    """The text that a model writes to answer with this assistant message, after the opener, up to and with EOS."""
    question = {"role": "user", "content": ""}
    everything = Thinking(thinking.enabled, "low", drop_earlier=False)
    opener = render([question], everything).text
    whole = render([question, message], everything).text
    return whole.removeprefix(opener).removesuffix(opener.partition(USER)[2])


def _preamble(effort: Any, profile: Profile) -> Effort:
    if profile == "2026-05":
        return "high" if effort == "max" else "low"
    if effort == "max":
        return "max"
    return "low" if effort in ("low", "minimal", "medium") else "high"


def _rendered(
    messages: Sequence[Json], thinking: Thinking, tools: Sequence[Json], tool_choice: ToolChoice,
    response_format: Json | None, *, keep_reasoning: bool,
) -> str:  # fmt: skip
    conversation = deepseek_recipe.Conversation(
        turns(messages, thinking=thinking.enabled),
        thinking_mode=thinking.enabled,
        tools=[tool_definition(tool) for tool in tools] or ([_keeper()] if keep_reasoning else None),
        tool_choice="auto" if tool_choice in {"auto", "none"} else "required",
        reasoning_effort=thinking.effort,
        **response_options(response_format),
    )
    text = _encoder().render_conversation(conversation).prompt
    if keep_reasoning:
        text = text.replace(_keeper_section(), "", 1)
    return text.replace(USER + SEPARATE, USER).replace("\n\n" + SEPARATE, USER)


def _offered(tools: Sequence[Json], choice: ToolChoice) -> Sequence[Json]:
    if choice == "none":
        return ()
    if choice != "auto" and not tools:
        raise ChatFormatError("a tool choice needs tools", "tool_choice")
    names = [tool["function"]["name"] for tool in tools]
    if choice not in {"auto", "required", *names}:
        raise ChatFormatError(f"tool_choice names {choice!r}; the tools are {', '.join(names)}", "tool_choice")
    return tools


def _without_early_developers(messages: Sequence[Json]) -> list[Json]:
    """Developer messages before the last user (or developer) message go, as reasoning there does."""
    last = max((i for i, m in enumerate(messages) if m.get("role") in {"user", "developer", "tool"}), default=0)
    return [m for i, m in enumerate(messages) if m.get("role") != "developer" or i >= last]


def _with_task(text: str, task: str, thinking: Thinking) -> str:
    """The task's token after the opener (``action``) or in its place (the others)."""
    if task not in TASKS:
        raise ChatFormatError(f"unknown task {task!r}; there are {', '.join(TASKS)}", "messages")
    if task == "action":
        return text + TASKS[task]
    return text.removesuffix(ASSISTANT + (THINK if thinking.enabled else END_THINK)) + TASKS[task]


def _opened(choice: ToolChoice) -> str:
    """The beginning of the reply that a tool choice puts into the prompt."""
    if choice in {"auto", "none"}:
        return ""
    block = f"\n\n{STARTS[0]}\n"
    return block if choice == "required" else f'{block}{INVOKE}{choice}">\n'


@cache
def _keeper_section() -> str:
    """The tools section that a prompt gets for ``_keeper`` alone."""
    conversation = deepseek_recipe.Conversation(
        [deepseek_recipe.UserMessage("")], thinking_mode=False, tools=[_keeper()]
    )
    section, _, _ = _encoder().render_conversation(conversation).prompt.removeprefix(BOS).partition(USER)
    return section


@cache
def _keeper() -> deepseek_recipe.ToolDefinition:
    """A tool whose only purpose is that the library keeps reasoning; its section is taken out again."""
    return deepseek_recipe.ToolDefinition(f"keep_reasoning_{uuid.uuid4().hex}")


@cache
def _encoder() -> deepseek_recipe.DeepseekV4Encoding:
    return deepseek_recipe.DeepseekV4Encoding()
