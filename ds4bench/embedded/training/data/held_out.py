"""The word problems that are never trained on, 200 items each, under ``prompts/``.

``gsm8k-nano``: from the training generator, but of skeletons (``skeleton``) that training leaves out. Its file is the
record; ``near_items`` made it. ``gsm8k-nano-far``: from templates of their own (``held_out_templates``), written apart
from those of training, so that it shows what carries over to wordings from elsewhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from ds4bench.embedded.training.data import held_out_templates
from ds4bench.embedded.training.data.problems import Problem
from ds4bench.embedded.training.data.skeleton import skeleton

ITEMS = 200
NEAR = Path(__file__).parents[4] / "prompts" / "gsm8k-nano" / "test.jsonl"
_FAR_SEED = "gsm8k-nano test 1"


@cache
def skeletons(path: Path = NEAR) -> frozenset[str]:
    """Skeletons of gsm8k-nano's items."""
    return frozenset(skeleton(json.loads(line)["question"]) for line in path.read_text().splitlines())


def near_items(draw: Callable[[random.Random], Problem], known: Collection[str], seed: str) -> list[Problem]:
    """Drawn problems of 200 different skeletons, none of them ``known`` (for example from an earlier training)."""
    rng = random.Random(seed)  # noqa: S311 - test data
    items: dict[str, Problem] = {}
    while len(items) < ITEMS:
        item = draw(rng)
        shape = skeleton(item.question)
        if shape not in known:
            items.setdefault(shape, item)
    return list(items.values())


def far_items() -> list[Problem]:
    """The 200 items of gsm8k-nano-far: no two alike, templates in turn."""
    rng = random.Random(_FAR_SEED)  # noqa: S311 - test data
    items: dict[str, Problem] = {}
    turn = 0
    while len(items) < ITEMS:
        item = held_out_templates.TEMPLATES[turn % len(held_out_templates.TEMPLATES)].draw(rng)
        items.setdefault(item.question, item)
        turn += 1
    return list(items.values())
