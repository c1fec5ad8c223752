"""What the tools answer: nothing is done, every result is data of the scenario."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ds4bench.workloads.toolcall15.calculator import calculate
from ds4bench.workloads.toolcall15.matching import matches
from ds4bench.workloads.toolcall15.scenario import MockCase, Mocks, Scenario

_PLACE = re.compile(r"\$\{(\w+)(?:\|([^}]*))?\}")
BAD_EXPRESSION = "This is not an expression that can be evaluated."
ECHO_LIMIT = 500
"""Characters of an argument that a result may repeat: an endless argument must not fill the next prompt."""


def tool_result(scenario: Scenario, tool: str, arguments: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """The JSON object that a call gets as its result.

    ``attempt`` counts the calls to this tool in the conversation from 1. Unknown tools and arguments of any shape get
    a result too: an error, as the scenario files say.
    """
    case = _fitting(scenario.mocks, tool, arguments, attempt)
    if case is None:
        fallback = {**scenario.fallback, tool: scenario.fallback.get(tool, scenario.fallback["*"])}
        case = _fitting(fallback, tool, arguments, attempt) or scenario.fallback["*"][-1]
    if case.compute is not None:
        expression = arguments.get(case.compute)
        value = calculate(expression) if isinstance(expression, str) else None
        return {"error": BAD_EXPRESSION} if value is None else {"result": value}
    filled: dict[str, Any] = _filled(case.result, {**arguments, "tool": tool})
    return filled


def _fitting(mocks: Mocks, tool: str, arguments: Mapping[str, Any], attempt: int) -> MockCase | None:
    """The first case that fits, as files list them."""
    for case in mocks.get(tool, []):
        fits = all(matches(match, arguments.get(name)) for name, match in case.when.items())
        if fits and case.attempt in (None, attempt):
            return case
    return None


def _filled(value: Any, arguments: Mapping[str, Any]) -> Any:
    """The result with the call's own arguments at the places ``${name}`` and ``${name|text if not given}``."""
    if isinstance(value, dict):
        return {key: _filled(item, arguments) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, arguments) for item in value]
    if not isinstance(value, str):
        return value
    return _PLACE.sub(lambda place: _given(arguments.get(place[1])) or place[2] or "", value)


def _given(value: Any) -> str:
    return value[:ECHO_LIMIT] if isinstance(value, str) else ""
