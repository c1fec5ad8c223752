"""What a composed word problem is made of: quantities that depend on each other, facts that tell them, questions.

A family of scenes (``scenes``) states facts and steps. The builder picks a question, keeps the facts which it needs (and
at times one that it does not), puts them into sentences, and writes exactly the steps that lead to the answer.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from ds4bench.embedded.training.data import scene_words, words
from ds4bench.embedded.training.data.problems import Problem, calculation

NUMBER_WORDS = dict(enumerate("two three four five six seven eight nine ten eleven twelve".split(), start=2))
_MOST_STEPS = 4
_TOKEN = re.compile(r"[(|)]|\[([^/\]]*)/([^\]]*)\]|[^(|)\[]+")
_BLANKS = re.compile(r"  +")
_AFTER_STOP = re.compile(r"(?<=[.?] )[a-z]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_Part = str | tuple[str, str] | list["_Sequence"]
_Sequence = list[_Part]


class UnfitError(Exception):
    """The numbers drawn do not make a problem; draw again."""


@lru_cache(maxsize=4096)
def _parse(text: str) -> _Sequence:
    """The parts of a text of the grammar: words, (present, past), or a list of choices."""
    stack: list[list[_Sequence]] = [[[]]]
    for token in _TOKEN.finditer(text):
        part = token[0]
        if part == "(":
            stack.append([[]])
        elif part == "|":
            stack[-1].append([])
        elif part == ")":
            choices = stack.pop()
            stack[-1][-1].append(choices)
        else:
            stack[-1][-1].append((token[1], token[2]) if part[0] == "[" else part)
    return stack[0][0]


def _expand(parts: _Sequence, rng: random.Random, past: bool) -> str:
    out = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, tuple):
            out.append(part[past])
        else:
            out.append(_expand(part[int(rng.random() * len(part))], rng, past))
    return "".join(out)


@dataclass(frozen=True)
class Person:
    """A name and its pronouns."""

    name: str
    he: str
    his: str
    him: str


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number of the scene: given (no step), or computed by a step from its parents."""

    value: int
    step: str = ""
    parents: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A sentence that tells quantities; ``extra`` when it may stand in a problem that does not need it."""

    text: str
    needs: tuple[Quantity, ...]
    person: Person
    slots: dict[str, str]
    extra: bool
    event: bool


@dataclass(frozen=True)
class Ask:
    """A question for a quantity."""

    target: Quantity
    text: str
    person: Person
    slots: dict[str, str]


class Scene:
    """Facts, quantities and questions of one problem in the making."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.past = rng.random() < 0.5
        self.people = people(rng, 4)
        self.theme = rng.choice(scene_words.THEMES)
        self.loose = False  # facts may be told in any order
        self.facts: list[Fact] = []
        self.asks: list[Ask] = []
        self.slots = _things(rng, self.theme)
        self._made: list[Quantity] = []

    def pick(self, low: int, high: int) -> Quantity:
        """A given number of a range, both ends included."""
        return Quantity(low + int(self.rng.random() * (high - low + 1)))

    def divisor(self, value: int, most: int = 12) -> Quantity:
        """A number of at least 2 that divides ``value`` into shares of at least 2. Raises UnfitError."""
        found = [d for d in range(2, min(most, value // 2) + 1) if value % d == 0]
        if not found:
            raise UnfitError
        return Quantity(self.rng.choice(found))

    def calc(self, left: Quantity, op: str, right: Quantity, step: str, **slots: str) -> Quantity:
        """The result of a step; ``{c}`` in its sentence is the calculation. Raises UnfitError."""
        done = calculation(left.value, op, right.value)
        if done is None or done[1] < 2:  # "1 apples" would not read well
            raise UnfitError
        text = _expand(_parse(step), self.rng, self.past)
        text = _capital(text.format_map({**self.slots, "n": self.people[0].name, **slots, "c": done[0]}))
        made = Quantity(done[1], text, (left, right))
        self._made.append(made)
        return made

    def tell(self, text: str, *needs: Quantity, kind: str = "", **slots: str) -> None:
        """Add a fact; the quantities fill ``{x}`` and ``{y}`` in turn.

        ``kind`` is "event" (it has a time), "extra" (it may stand where it is not needed) or neither.
        """
        text = text.replace("GAIN", self.theme.gain).replace("LOSE", self.theme.lose)
        text = _expand(_parse(text), self.rng, self.past)
        numbers = {name: self._number(q.value, text) for name, q in zip("xy", needs, strict=False)}
        self.facts.append(Fact(text, needs, self.people[0], {**numbers, **slots}, kind == "extra", kind == "event"))

    def ask(self, target: Quantity, text: str, **slots: str) -> None:
        """Add a question that may be put."""
        self.asks.append(Ask(target, text, self.people[0], slots))

    def problem(self) -> Problem:
        """The problem for one of the questions. Raises UnfitError when none has a fitting number of steps."""
        options = [(a, n) for a in self.asks if 1 <= (n := len(self._steps(a.target))) <= _MOST_STEPS]
        if not options:
            raise UnfitError
        ask = self.rng.choices([a for a, _ in options], [n * n for _, n in options])[0]
        steps = self._steps(ask.target)
        question = _polished(Writer(self, self._kept(ask.target)).write(ask))
        return Problem(question, "\n".join(step.step for step in steps) + f"\n#### {ask.target.value}")

    def _steps(self, target: Quantity) -> list[Quantity]:
        needed = _ancestors(target)
        return [q for q in self._made if id(q) in needed]

    def _kept(self, target: Quantity) -> list[Fact]:
        needed, rng = _ancestors(target), self.rng
        kept = [
            f
            for f in self.facts
            if not f.needs or any(id(q) in needed for q in f.needs) or (f.extra and rng.random() < 0.25)
        ]
        if self.loose and rng.random() < 0.3:
            rng.shuffle(kept)
        if rng.random() < 0.12:
            kept.insert(rng.randint(0, len(kept)), self._aside())
        return kept

    def _aside(self) -> Fact:
        text = _expand(_parse(self.rng.choice(scene_words.ASIDES)), self.rng, self.past)
        return Fact(
            text, (), self.people[0], {"x": str(self.rng.randint(2, 30)), "M": self.people[3].name}, False, False
        )

    def _number(self, value: int, text: str) -> str:
        spelled = 2 <= value <= 12 and "$" not in text and self.rng.random() < 0.06
        return NUMBER_WORDS[value] if spelled else str(value)


class Writer:
    """Puts facts and a question into sentences: pronouns, times, joined facts, if-clauses."""

    def __init__(self, scene: Scene, facts: list[Fact]) -> None:
        self._scene, self._rng, self._facts = scene, scene.rng, facts
        self._last: Person | None = None
        others = {"M": scene.people[1].name, "K": scene.people[2].name}
        self._base = {**scene.slots, **others}
        events = sum(fact.event for fact in facts)
        times = self._rng.choice(scene_words.TIMES if scene.past else scene_words.TIMES_NOW)
        self._times = iter(times if events <= len(times) and self._rng.random() < 0.5 else ())

    def write(self, ask: Ask) -> str:
        """The problem's text."""
        question = _expand(_parse(ask.text), self._rng, self._scene.past)
        style = self._rng.random()
        conditional = style < 0.22 and len(self._facts) > 1 and self._facts[-1].needs and question[-1] == "?"
        body = self._sentences(self._facts[:-1] if conditional else self._facts)
        if conditional:
            fact = self._facts[-1]
            clause = self._filled(_small(fact.text[:-1]), fact.person, fact.slots)
            if ". " in clause:
                first, _, clause = clause.rpartition(". ")
                body.append(_capital(first) + ".")
                clause = _small(clause) if clause.startswith(("The ", "Each ", "A ", "There ")) else clause
            asked = self._filled(question, ask.person, ask.slots)
            return " ".join([*body, f"If {clause}, {_small(asked)}"])
        asked = _capital(self._filled(question, ask.person, ask.slots))
        return " ".join([asked, *body] if 0.22 <= style < 0.26 and ask.person.name in asked else [*body, asked])

    def _sentences(self, facts: list[Fact]) -> list[str]:
        done: list[str] = []
        previous: Fact | None = None
        for fact in facts:
            text = self._timed(fact)
            joins = previous is not None and previous.person is fact.person and text.startswith("{S} ")
            if joins and self._rng.random() < 0.35 and done[-1].startswith(fact.person.name + " "):
                link = self._rng.choice((" and ", ", and then ", " and later ") if fact.event else (" and ",))
                done[-1] = f"{done[-1][:-1]}{link}{self._filled(text[4:], fact.person, fact.slots, joined=True)}"
                previous = None
                continue
            done.append(_capital(self._filled(text, fact.person, fact.slots)))
            previous = None if " and " in text or ". " in text or "{M}" in text else fact
        return done

    def _timed(self, fact: Fact) -> str:
        when = next(self._times, "") if fact.event else ""
        if not when:
            return fact.text
        if self._rng.random() < 0.6 or fact.text.count(".") > 1:
            return f"{_capital(when)}, {_small(fact.text)}"
        return f"{fact.text[:-1]} {when}."

    def _filled(self, text: str, person: Person, slots: dict[str, str], *, joined: bool = False) -> str:
        known = self._last is person and self._rng.random() < 0.65
        inside = (
            person.he if joined or known or (person.name in text or "{S}" in text or "{n}" in text) else person.name
        )
        filled = {
            **self._base, "n": person.name, "S": person.he if known else person.name, "s": inside, "his": person.his,
            "him": person.him, "kin": self._rng.choice(scene_words.KIN),
            "people": self._rng.choice(scene_words.PEOPLE), **slots,
        }  # fmt: skip
        if "{his}" in text and not known and not joined and text.find("{his}") < _first_name(text):
            filled["his"] = person.name + "'s"
        written = text.format_map(filled)
        mentioned = "{M}" in text or "{K}" in text
        self._last = None if mentioned else person if joined or person.name in written or known else self._last
        return written


def people(rng: random.Random, count: int) -> list[Person]:
    """Different persons."""
    women, men = rng.sample(words.WOMEN, count), rng.sample(words.MEN, count)
    return [
        Person(w, "she", "her", "her") if rng.random() < 0.5 else Person(m, "he", "his", "him")
        for w, m in zip(women, men, strict=True)
    ]


def _things(rng: random.Random, theme: scene_words.Theme) -> dict[str, str]:
    thing = rng.choice(theme.nouns)
    other = rng.choice([noun for noun in rng.choice(scene_words.THEMES).nouns if noun != thing])
    box, crate = rng.sample(scene_words.BOXES, 2)
    color, shade = rng.sample(scene_words.COLORS, 2)
    return {
        "thing": thing, "things": scene_words.plural(thing), "stuff": scene_words.plural(other), "one": other,
        "box": box, "boxes": scene_words.SHELVES.get(box) or scene_words.plural(box),
        "crate": crate, "crates": scene_words.SHELVES.get(crate) or scene_words.plural(crate), "color": color, "shade": shade,
    }  # fmt: skip


def _ancestors(target: Quantity) -> set[int]:
    found, todo = set(), [target]
    while todo:
        q = todo.pop()
        found.add(id(q))
        todo.extend(q.parents)
    return found


def _first_name(text: str) -> int:
    places = [text.find(mark) for mark in ("{S}", "{s}", "{n}") if mark in text]
    return min(places, default=len(text))


def _polished(text: str) -> str:
    """Without the blanks that empty choices leave, "an" before a vowel; every sentence begins with a capital letter."""
    text = _BLANKS.sub(" ", text).replace(" .", ".").replace(" ?", "?").replace(" ,", ",")
    text = _ARTICLE.sub(r"\1n ", text)
    return _AFTER_STOP.sub(lambda match: match[0].upper(), text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _small(text: str) -> str:
    """With a small first letter, unless a name or slot begins it."""
    first = text.split(" ", 1)[0].rstrip(",'s")
    if first in _NAMES or text[:1] == "{":
        return text
    return text[:1].lower() + text[1:]


_NAMES = frozenset(words.WOMEN) | frozenset(words.MEN) | {name + "'" for name in (*words.WOMEN, *words.MEN)}
