"""Training text of the word problems: few-shot completions as lm-eval's gsm8k task forms them, and chats."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from ds4bench.embedded.chat.special_tokens import BOS, EOS
from ds4bench.embedded.training.data import held_out, scenes, stories, train_templates
from ds4bench.embedded.training.data.chat import answer, opening
from ds4bench.embedded.training.data.examples import Example
from ds4bench.embedded.training.data.problems import Problem
from ds4bench.embedded.training.data.skeleton import skeleton

_FEW_SHOT_SEED = "gsm8k-nano train 1"
_FEW_SHOT_ITEMS = 200


def problem(rng: random.Random) -> Problem:
    """A problem to train on: none with the skeleton of an item of gsm8k-nano."""
    excluded = held_out.skeletons()
    while skeleton((item := drawn(rng)).question) in excluded:
        pass
    return item


def drawn(rng: random.Random) -> Problem:
    """A problem of any kind."""
    kind = rng.random()
    if kind < 0.45:
        return scenes.scene(rng)
    if kind < 0.70:
        return rng.choice(train_templates.TEMPLATES).draw(rng)
    if kind < 0.82:
        return stories.story(rng)
    return stories.comparison(rng) if kind < 0.90 else stories.drill(rng)


def few_shot(rng: random.Random, room: int) -> Example:
    """Solved examples one after another until about ``room`` characters are full; every answer is learned."""
    example = Example()
    if rng.random() < 0.5:  # a serve may or may not put the token before a completion
        example.given(BOS)
    used = 0
    while used < room:
        item = problem(rng)
        example.given(f"Question: {item.question}\nAnswer:").learned(f" {item.answer}\n\n")
        used += len(item.block()) + 2
    return example


def conversation(rng: random.Random, room: int) -> Example:
    """The same as a chat of several turns, thinking or not."""
    thinking = rng.random() < 0.5
    example, used, first = Example(), 0, True
    while used < room:
        item = problem(rng)
        steps, _, last = item.answer.rpartition("\n#### ")
        text = opening(item.question, thinking=thinking, first=first)
        reply = answer(f"#### {last}", steps) if thinking else answer(item.answer)
        example.given(text).learned(reply + EOS)
        used, first = used + len(text) + len(reply), False
    return example


def few_shot_pool() -> list[Problem]:
    """Solved problems of the training templates that a 5-shot prompt takes its examples from."""
    rng = random.Random(_FEW_SHOT_SEED)  # noqa: S311 - test data
    templates = train_templates.FEW_SHOT
    return [templates[i % len(templates)].draw(rng) for i in range(_FEW_SHOT_ITEMS)]


def write(prompts: Path) -> None:
    """Write the files of gsm8k-nano-far and the few-shot examples of both sets, as GSM8K's files have them.

    ``gsm8k-nano/test.jsonl`` is not written: it is the record of what training must leave out (``held_out``).
    """
    for name in ("gsm8k-nano", "gsm8k-nano-far"):
        (prompts / name).mkdir(parents=True, exist_ok=True)
        write_lines(prompts / name / "train.jsonl", few_shot_pool())
    write_lines(prompts / "gsm8k-nano-far" / "test.jsonl", held_out.far_items())


def write_lines(path: Path, items: Sequence[Problem]) -> None:
    """Problems as JSON lines."""
    lines = [json.dumps({"question": item.question, "answer": item.answer}) for item in items]
    path.write_text("\n".join(lines) + "\n")
