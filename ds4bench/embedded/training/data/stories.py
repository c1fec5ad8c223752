# ruff: noqa: E501  (tables of text: one entry a line)
"""Word problems composed of events, so that the model learns what the words do and not the templates alone.

A story begins with a number of things; one to three events change it, each in one of several wordings; a question ends
it. The answer works through the events in order.
"""

from __future__ import annotations

import random

from ds4bench.embedded.training.data import words
from ds4bench.embedded.training.data.problems import Problem, calculation

_STARTS = (
    "{N} has {x} {things}.", "{N} had {x} {things}.", "{N} starts with {x} {things}.", "There are {x} {things} in a {box}.",
    "{N} finds {x} {things}.", "In the morning {N} has {x} {things}.", "{N} owns {x} {things}.", "At first there are {x} {things}.",
    "A shop has {x} {things}.", "{N} keeps {x} {things} at home.", "Last week {N} had {x} {things}.", "{N} made {x} {things}.",
)  # fmt: skip
_EVENTS = {
    "+": (
        "{M} gives {N} {x} more.", "{N} buys {x} more {things}.", "Then {N} finds {x} {things}.", "{He} gets {x} more from {M}.",
        "{M} brings {x} {things}.", "{N} adds {x} {things}.", "Later {he} picks {x} more.", "After that {x} {things} are added.",
        "On Tuesday {N} makes {x} more {things}.", "{N} receives {x} {things} as a gift.", "Then {x} more {things} come.",
        "{His} mother gives {him} {x} {things}.", "In the afternoon {N} collects {x} more {things}.", "{x} {things} are put in.",
    ),
    "-": (
        "{N} gives {x} {things} to {M}.", "{He} loses {x} of them.", "Then {N} sells {x} {things}.", "{M} takes {x} {things}.",
        "{x} {things} break.", "{N} uses {x} of the {things}.", "Later {he} gives away {x}.", "After that {x} {things} are sold.",
        "On Friday {N} throws away {x} {things}.", "{N} leaves {x} {things} at school.", "Then {x} of the {things} are taken away.",
        "{He} spends {x} {things} on a game.", "In the evening {N} eats {x}.", "{N} sends {x} {things} to {K}.",
    ),
    "*": (
        "Then the number of {things} grows to {x} times as many.", "{N} now makes it {x} times as many.",
        "After a week there are {x} times as many {things}.", "{M} has {x} times as many {things}, and {N} takes {M}'s instead.",
        "{N} trades them for {x} times as many {things}.", "The next day {N} has {x} times as many.",
    ),
    "/": (
        "{N} puts them equally into {x} {boxes} and keeps one {box}.", "{He} shares them equally among {x} {people} and looks at one share.",
        "The {things} are divided into {x} equal groups, and {N} takes one group.", "They are split equally among {x} {people}, and {N} is one of them.",
    ),
}  # fmt: skip
_QUESTIONS = (
    "How many {things} are there now?", "How many {things} does {N} have now?", "How many {things} are there in the end?",
    "What is the number of {things} now?", "How many {things} does {N} have in the end?", "How many {things} are left?",
    "How many {things} does that make?", "In the end, how many {things} does {N} have?",
)  # fmt: skip
_STEPS = {
    "+": ("After that there are {}.", "Now there are {} {things}.", "That makes {} {things}.", "{N} now has {} {things}."),
    "-": ("After that there are {}.", "There are {} {things} left.", "{N} has {} {things} left.", "That leaves {} {things}."),
    "*": ("That makes {} {things}.", "Then there are {} {things}.", "{N} then has {} {things}."),
    "/": ("Each one has {} {things}.", "One share is {} {things}.", "Each one gets {} {things}."),
}  # fmt: skip
_ASIDES = (
    "It is a warm day.", "{N} lives near {place}.", "{M} is a good friend of {N}.", "{N} likes {things} very much.",
    "{N} and {M} go to the same school.", "The {things} are {color}.", "{N} walks to {place}.", "Everyone is happy.",
)  # fmt: skip


def story(rng: random.Random) -> Problem:
    """A problem of one to three events."""
    slots = _slots(rng)
    for _ in range(200):
        value = rng.choice((rng.randint(2, 30), rng.randint(10, 99), rng.randint(100, 400)))
        text, steps = [rng.choice(_STARTS).format(x=value, **slots)], []
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            op = rng.choice("++--*/")
            other = rng.randint(2, 9) if op in "*/" else rng.choice((rng.randint(2, 20), rng.randint(5, 99)))
            done = calculation(value, op, other)
            if done is None:
                break
            written, value = done
            text.append(rng.choice(_EVENTS[op]).format(x=other, **slots))
            steps.append(rng.choice(_STEPS[op]).format(written, **slots))
        else:
            if rng.random() < 0.2:
                text.insert(rng.randrange(len(text)), rng.choice(_ASIDES).format(**slots))
            question = " ".join([*text, rng.choice(_QUESTIONS).format(**slots)])
            return Problem(question, "\n".join(steps) + f"\n#### {value}")
    raise RuntimeError("no story in 200 tries")


def comparison(rng: random.Random) -> Problem:
    """Two or three people whose numbers depend on each other, and a question for one, the sum or the difference."""
    slots = _slots(rng)
    for _ in range(200):
        value = rng.randint(2, 60)
        op = rng.choice("+-*")
        other = rng.randint(2, 9) if op == "*" else rng.randint(2, 40)
        done = calculation(value, op, other)
        if done is None:
            continue
        relation = {
            "+": "{x} more {things} than",
            "-": "{x} fewer {things} than",
            "*": "{x} times as many {things} as",
        }[op]
        verb, past = rng.choice(
            (
                ("has", "have"),
                ("picks", "pick"),
                ("finds", "find"),
                ("sells", "sell"),
                ("makes", "make"),
                ("buys", "buy"),
            )
        )
        facts = [f"{{N}} {verb} {value} {{things}}.", f"{{M}} {verb} {relation.replace('{x}', str(other))} {{N}}."]
        if rng.random() < 0.3:
            facts.reverse()
        steps = [f"{{M}} {verb} {done[0]} {{things}}."]
        question, last = f"How many {{things}} does {{M}} {past}?", done[1]
        if rng.random() < 0.6:
            second = calculation(value, "+", done[1])
            if second is None:
                continue
            ending = rng.choice(("together", "altogether", "in total", "in all"))
            question, last = f"How many {{things}} do they {past} {ending}?", second[1]
            steps.append(f"They {past} {second[0]} {{things}} {ending}.")
        text = " ".join([*facts, question]).format(**slots)
        return Problem(text, "\n".join(steps).format(**slots) + f"\n#### {last}")
    raise RuntimeError("no comparison in 200 tries")


def drill(rng: random.Random) -> Problem:
    """One to three plain calculations, asked for or told in sentences; hard carries and borrows come often."""
    if rng.random() < 0.35:
        x, op, y, done = _calculation(rng)
        asked = rng.choice(_DRILLS).format(f"{x} {op} {y}")
        return Problem(asked, f"It is {done[0]}.\n#### {done[1]}")
    if rng.random() < 0.5:
        x, op, y, done = _calculation(rng)
        return Problem(rng.choice(_FACTS[op]).format(x=x, y=y), f"It is {done[0]}.\n#### {done[1]}")
    rows = [_calculation(rng) for _ in range(rng.choice((2, 3)))]
    listed = "; ".join(f"{x} {op} {y}" for x, op, y, _ in rows)
    steps = "\n".join(
        f"{word} is {row[3][0]}." for word, row in zip(("The first", "The second", "The third"), rows, strict=False)
    )
    asked = rng.choice(
        (
            "Work out {}. What is the last result?",
            "Compute in turn: {}. Give the last one.",
            "Find {}. What is the last number?",
        )
    )
    return Problem(asked.format(listed), f"{steps}\n#### {rows[-1][3][1]}")


_DRILLS = (
    "What is {}?",
    "How much is {}?",
    "Compute {}.",
    "Work out {}.",
    "Find {}.",
    "What does {} make?",
    "Give the result of {}.",
)
_FACTS = {
    "+": ("What is the sum of {x} and {y}?", "Add {y} to {x}.", "Which number is {y} more than {x}?", "{x} grows by {y}. What is it now?", "What is {x} plus {y}?", "Put {x} and {y} together. How many is that?"),
    "-": ("What is the difference between {x} and {y}?", "Take {y} away from {x}.", "Which number is {y} less than {x}?", "{x} shrinks by {y}. What is left?", "What is {x} minus {y}?", "How much must be added to {y} to make {x}?"),
    "*": ("What is the product of {x} and {y}?", "Multiply {x} by {y}.", "What is {x} times {y}?", "How many are {x} groups of {y}?", "What are {y} lots of {x}?", "Each of {x} rows has {y}. How many is that?"),
    "/": ("Divide {x} by {y}.", "What is {x} divided by {y}?", "How many times does {y} go into {x}?", "Split {x} into {y} equal parts. How much is one part?", "How many groups of {y} are in {x}?", "{y} times which number is {x}?"),
}  # fmt: skip


def _calculation(rng: random.Random) -> tuple[int, str, int, tuple[str, int]]:
    """Two numbers, their operation and the result as ``calculation`` gives it."""
    while True:
        op = rng.choice("++--**/")
        x, y = {"+": _sum, "-": _difference, "*": _product, "/": _quotient}[op](rng)
        done = calculation(x, op, y)
        if done is not None:
            return x, op, y, done


def _sum(rng: random.Random) -> tuple[int, int]:
    """Numbers of up to three digits; three of four have a carry out of the ones."""
    high = rng.choice((99, 99, 400, 999))
    x, y = rng.randint(2, high), rng.randint(2, rng.choice((99, high)))
    if rng.random() < 0.5 and x % 10 + y % 10 < 10:
        return _sum(rng)
    return x, y


def _difference(rng: random.Random) -> tuple[int, int]:
    """Numbers of up to three digits; three of four have a borrow at the ones."""
    x = rng.randint(11, rng.choice((99, 99, 400, 999)))
    y = rng.randint(2, rng.choice((min(99, x - 1), x - 1)))
    if rng.random() < 0.5 and x % 10 >= y % 10:
        return _difference(rng)
    return x, y


def _product(rng: random.Random) -> tuple[int, int]:
    """One digit times two, or two times two digits up to what the problems have."""
    x = rng.randint(3, 9) if rng.random() < 0.65 else rng.randint(10, 40)
    y = rng.randint(3, min(99, 900 // x))
    return (x, y) if rng.random() < 0.5 else (y, x)


def _quotient(rng: random.Random) -> tuple[int, int]:
    """A dividend that is a product of the same range, and one of its factors."""
    x, y = _product(rng)
    return x * y, y


def _slots(rng: random.Random) -> dict[str, str]:
    woman = rng.random() < 0.5
    names = rng.sample(words.WOMEN if woman else words.MEN, 3)
    boxes = rng.choice(words.BOXES)
    he, his, him = ("she", "her", "her") if woman else ("he", "his", "him")
    return {
        "N": names[0], "M": names[1], "K": names[2], "things": rng.choice(words.THINGS), "he": he, "He": he.capitalize(),
        "His": his.capitalize(), "his": his, "him": him, "boxes": boxes, "box": words.BOX[boxes],
        "people": rng.choice(words.PEOPLE), "place": rng.choice(words.PLACES), "color": rng.choice(words.COLORS),
    }  # fmt: skip
