"""The held-out tool battery: 60 scenarios, twelve of each category, with tools, words and wordings of their own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ds4bench.embedded.training.data.tool_pools import HELD_OUT
from ds4bench.embedded.training.data.tools import Scenario, Turn, offered, refused_names, scenario

PER_CATEGORY = 12
SEED = "tool battery 1"
_OFFERED = 6


def items() -> list[dict[str, Any]]:
    """The items as the file has them."""
    rng = random.Random(SEED)  # noqa: S311 - test data
    out: list[dict[str, Any]] = []
    for category in "ABCDE":
        for number in range(PER_CATEGORY):
            s = scenario(rng, HELD_OUT, category)
            tools = offered(rng, HELD_OUT, s.tools, _OFFERED, refused_names([s]))
            out.append(
                _item(f"{category}{number + 1:02}", s, tools, rng.choice(HELD_OUT.systems), thinking=number % 3 == 2)
            )
    return out


def write(folder: Path) -> None:
    """Write ``battery.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "battery.json").write_text(json.dumps(items(), indent=1) + "\n")


def read_turns(item: dict[str, Any]) -> list[Turn]:
    """An item's turns again."""
    return [
        Turn(
            calls=tuple((name, arguments) for name, arguments in turn["calls"]), results=tuple(turn["results"]),
            text=turn["text"], thought=turn["thought"], must_have=tuple(turn["must_have"]),
        )
        for turn in item["turns"]
    ]  # fmt: skip


def _item(name: str, s: Scenario, tools: list[dict[str, Any]], system: str, *, thinking: bool) -> dict[str, Any]:
    turns = [
        {
            "calls": turn.calls,
            "results": turn.results,
            "text": turn.text,
            "thought": turn.thought,
            "must_have": turn.must_have,
        }
        for turn in s.turns
    ]
    return {
        "id": name, "category": s.category, "system": system, "tools": tools, "thinking": thinking, "request": s.request,
        "turns": turns,
    }  # fmt: skip
