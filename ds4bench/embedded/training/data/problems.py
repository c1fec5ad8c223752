"""Grade-school word problems from templates: question, worked answer with ``<<a+b=c>>``, and ``#### N``.

A template is one line ``ranges | problem | answer``. Ranges: ``a 2-20, b 3-9``. The answer's ``[x=a+b]`` computes x,
which later brackets may use, and becomes ``4 + 5 = <<4+5=9>>9``. Slots in braces are numbers or words (``_words``).
Every computed number is an integer between 1 and ``LARGEST``; values that break that are drawn again.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ds4bench.embedded.training.data import words

LARGEST = 2000
_LARGEST_PRODUCT = 900
_TRIES = 400
_STEP = re.compile(r"\[(\w)=(\w+)([-+*/])(\w+)\]")
_RANGE = re.compile(r"(\w) (\d+)-(\d+)(?: by (\d+))?")


@dataclass(frozen=True)
class Problem:
    """A question and its worked answer, as GSM8K's files have them."""

    question: str
    answer: str

    @property
    def number(self) -> int:
        """The final answer."""
        return int(self.answer.rpartition("#### ")[2])

    def block(self) -> str:
        """As lm-eval's gsm8k task shows a solved example."""
        return f"Question: {self.question}\nAnswer: {self.answer}"


class TemplateError(ValueError):
    """A template that cannot be read or has no values that fit."""


@dataclass(frozen=True)
class Template:
    """One way to put a problem."""

    ranges: tuple[tuple[str, int, int, int], ...]
    problem: str
    answer: str

    def draw(self, rng: random.Random) -> Problem:
        """A problem. Raises TemplateError when no values are found."""
        for _ in range(_TRIES):
            values = {name: rng.randrange(low, high + 1, by) for name, low, high, by in self.ranges}
            answer = _solve(self.answer, values)
            if answer is not None:
                slots = {**_words(rng), **{name: str(value) for name, value in values.items()}}
                text, last = answer
                return Problem(self.problem.format_map(slots), f"{text.format_map(slots)}\n#### {last}")
        raise TemplateError(f"no values fit: {self.problem}")


def parse(lines: str) -> list[Template]:
    """Templates of a text, one a line; blank lines are left out. Raises TemplateError."""
    return [_parse(line) for line in lines.strip().splitlines() if line.strip()]


def _parse(line: str) -> Template:
    parts = [part.strip() for part in line.split("|")]
    if len(parts) != 3:
        raise TemplateError(f"not 'ranges | problem | answer': {line}")
    ranges = tuple((m[1], int(m[2]), int(m[3]), int(m[4] or 1)) for m in _RANGE.finditer(parts[0]))
    return Template(ranges, parts[1], parts[2].replace(" / ", "\n"))


def calculation(x: int, op: str, y: int) -> tuple[str, int] | None:
    """(``4 + 5 = <<4+5=9>>9``, 9); None when the result is not one that these problems have."""
    quotient = x // y if y and x % y == 0 else 0
    result = {"+": x + y, "-": x - y, "*": x * y, "/": quotient}[op]
    if not 1 <= result <= (_LARGEST_PRODUCT if op == "*" else LARGEST):
        return None
    return f"{x} {op} {y} = <<{x}{op}{y}={result}>>{result}", result


def _solve(answer: str, values: dict[str, int]) -> tuple[str, int] | None:
    """The answer with its steps computed, and the last number; adds the computed values to ``values``."""
    last = 0
    while match := _STEP.search(answer):
        name, left, op, right = match.groups()
        step = calculation(_value(left, values), op, _value(right, values))
        if step is None:
            return None
        text, last = step
        values[name] = last
        answer = answer[: match.start()] + text + answer[match.end() :]
    return answer, last


def _value(token: str, values: dict[str, int]) -> int:
    return int(token) if token.isdigit() else values[token]


def _words(rng: random.Random) -> dict[str, str]:
    woman = rng.random() < 0.5
    first, second, third = rng.sample(words.WOMEN if woman else words.MEN, 3)
    if rng.random() < 0.5:
        second = rng.choice(words.MEN if woman else words.WOMEN)
    things, stuff, other = rng.sample(words.THINGS, 3)
    good, ware = rng.sample(words.GOODS, 2)
    boxes = rng.choice(words.BOXES)
    animals, beasts = rng.sample(words.ANIMALS, 2)
    color, shade = rng.sample(words.COLORS, 2)
    he, his, him = ("she", "her", "her") if woman else ("he", "his", "him")
    return {
        "N": first, "M": second, "K": third, "he": he, "He": he.capitalize(), "his": his, "His": his.capitalize(),
        "him": him, "things": things, "stuff": stuff, "other": other, "good": good, "ware": ware, "boxes": boxes,
        "box": words.BOX[boxes], "people": rng.choice(words.PEOPLE), "place": rng.choice(words.PLACES),
        "animals": animals, "beasts": beasts, "job": rng.choice(words.JOBS), "color": color, "shade": shade,
    }  # fmt: skip
