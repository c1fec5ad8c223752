"""DeepSeek's chat form for generated dialogues; a test holds it equal to ``ds4bench.embedded.chat.encoding``.

Written out here because the machine that trains has torch and nothing else of the engine's dependencies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ds4bench.embedded.chat.special_tokens import ASSISTANT, BOS, DSML, END_THINK, THINK, USER

HIGH_EFFORT = """Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.

"""

_TOOLS = """

## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<{D}tool_calls>" block like the following:

<{D}tool_calls>
<{D}invoke name="$TOOL_NAME">
<{D}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{D}parameter>
...
</{D}invoke>
<{D}invoke name="$TOOL_NAME2">
...
</{D}invoke>
</{D}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> \
BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

{SCHEMAS}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""

Call = tuple[str, Mapping[str, Any]]


def head(system: str, tools: Sequence[Mapping[str, Any]] = (), *, effort: bool = False) -> str:
    """What stands before the first user message. ``tools`` are functions: name, description, parameters."""
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    section = _TOOLS.replace("{D}", DSML).replace("{SCHEMAS}", schemas) if tools else ""
    return BOS + (HIGH_EFFORT if effort else "") + system + section


def user(text: str, *, thinking: bool) -> str:
    """A user message and the opener of the reply."""
    return f"{USER}{text}{ASSISTANT}{THINK if thinking else END_THINK}"


def opening(text: str, *, thinking: bool, first: bool, effort: bool = False) -> str:
    """A user message of a chat without system message and tools."""
    return (head("", effort=effort) if first else "") + user(text, thinking=thinking)


def tool_results(results: Sequence[str], *, thinking: bool) -> str:
    """What tools gave back, in the order of the calls, and the opener of the reply."""
    blocks = "\n\n".join(f"<tool_result>{result}</tool_result>" for result in results)
    return user(blocks, thinking=thinking)


def answer(text: str, reasoning: str | None = None) -> str:
    """A reply after the opener, without the end token; ``reasoning`` in thinking mode only."""
    return text if reasoning is None else f"{reasoning}{END_THINK}{text}"


def calls(made: Sequence[Call]) -> str:
    """Tool calls as the model writes them."""
    body = "".join(
        f'<{DSML}invoke name="{name}">\n{"".join(_parameter(k, v) for k, v in arguments.items())}</{DSML}invoke>\n'
        for name, arguments in made
    )
    return f"\n\n<{DSML}tool_calls>\n{body}</{DSML}tool_calls>"


def _parameter(name: str, value: Any) -> str:
    text = isinstance(value, str)
    shown = value if text else json.dumps(value, ensure_ascii=False)
    return f'<{DSML}parameter name="{name}" string="{"true" if text else "false"}">{shown}</{DSML}parameter>\n'
