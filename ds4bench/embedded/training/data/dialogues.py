"""Dialogues with tools to train on: many scenarios over the same tools, so that a row is full of replies to learn."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import dataclass, field

from ds4bench.embedded.chat.special_tokens import EOS
from ds4bench.embedded.training.data import chat, tools
from ds4bench.embedded.training.data.examples import Example
from ds4bench.embedded.training.data.tool_pools import TRAIN, common
from ds4bench.embedded.training.data.tools import Json, Scenario, Tool

_ALIKE = 0.5
"""Share of the tools that have their verb or noun from one before: only both together tell them apart."""


@dataclass
class Kit:
    """What a dialogue offers: tools, and searches (noun, verb, the search's parameter) with the action on what is found."""

    tools: list[Tool] = field(default_factory=list)
    chains: list[tuple[str, str, str]] = field(default_factory=list)
    schemas: dict[str, Json] = field(default_factory=dict)

    def scenario(self, rng: random.Random) -> Scenario:
        """A scenario that these tools serve, or rightly none of them."""
        while True:
            category = rng.choice("AAABBBCCDDDE")
            if category == "D":
                return self._restraint(rng)
            if category == "C" and self.chains:
                return tools.chain(rng, TRAIN, rng.choice(self.chains))
            if category == "B" and len(self.tools) > 1:
                one, two = rng.sample(self.tools, 2)
                return tools.double(rng, TRAIN, (tools.again(rng, TRAIN, one), tools.again(rng, TRAIN, two)))
            if category in "AE" and self.tools:
                make = tools.single if category == "A" else tools.failure
                return make(rng, TRAIN, tools.again(rng, TRAIN, rng.choice(self.tools)))

    def _restraint(self, rng: random.Random) -> Scenario:
        """Half of the refused wishes have the verb or the noun of a tool that is there."""
        while tools.refused_names([s := tools.restraint(rng, TRAIN, self._near(rng))]) & set(self.schemas):
            pass
        return s

    def _near(self, rng: random.Random) -> Tool | None:
        verb, noun = _alike(rng, self.schemas)
        if verb is None and noun is None:
            return None
        return tools.tool(rng, TRAIN, lookup=rng.random() < 0.3, verb=verb, noun=noun)


def kit(rng: random.Random, count: int) -> Kit:
    """About ``count`` tools."""
    made = Kit()
    for _ in range(min(count // 2, rng.choice((0, 0, 1, 1, 2)))):
        s = tools.chain(rng, TRAIN)
        noun = s.tools[0]["name"].removeprefix("find_")
        verb = s.tools[1]["name"].removesuffix(f"_{noun}")
        made.chains.append((noun, verb, next(iter(s.tools[0]["parameters"]["properties"]))))
        made.schemas |= {tool["name"]: tool for tool in s.tools}
    while len(made.schemas) < max(1, count):
        verb, noun = _alike(rng, made.schemas)
        new = tools.tool(rng, TRAIN, lookup=rng.random() < 0.4, verb=verb, noun=noun)
        if new.name not in made.schemas:
            made.tools.append(new)
            made.schemas[new.name] = new.schema
    return made


def dialogue(rng: random.Random, room: int) -> Example:
    """A dialogue with the section of tool schemas, as DeepSeek has it, of about ``room`` characters."""
    example, offer = Example(), kit(rng, rng.randint(1, 8 if room < 8000 else 12))
    thinking = rng.random() < 0.4
    schemas = rng.sample(list(offer.schemas.values()), len(offer.schemas))
    example.given(chat.head(rng.choice(TRAIN.systems), schemas, effort=thinking and rng.random() < 0.5))
    return _played(rng, example, offer, room, thinking=thinking)


def short_dialogue(rng: random.Random, room: int) -> Example:
    """The same with a list of the tools in the system message: what is to be copied stands near, which is learnt first."""
    offer = kit(rng, rng.randint(1, 4))
    rows = [f"Tool {name}({', '.join(schema['parameters']['properties'])})" for name, schema in offer.schemas.items()]
    text = "\n".join([rng.choice(TRAIN.systems), *rng.sample(rows, len(rows))])
    return _played(rng, Example().given(chat.head(text)), offer, room, thinking=rng.random() < 0.3)


def echo(rng: random.Random, room: int) -> Example:
    """Words to repeat, and the value of one of several keys: copying in its shortest form."""
    example, used = Example().given(chat.head("")), 0
    while used < room:
        words = [TRAIN.pick(rng, (common(rng),)) for _ in range(rng.randint(2, 10))]
        asked, reply = (_repetition if rng.random() < 0.5 else _value_of_a_key)(rng, words)
        example.given(chat.user(asked, thinking=False)).learned(reply + EOS)
        used += len(asked) + len(reply) + 60
    return example


def play(example: Example, s: Scenario, *, thinking: bool) -> int:
    """Append a scenario's user message and turns to the example; characters added."""
    before = len(example.pieces)
    example.given(chat.user(s.request, thinking=thinking))
    for turn in s.turns:
        example.learned(turn.reply(thinking=thinking) + EOS)
        if turn.calls:
            example.given(chat.tool_results(turn.results, thinking=thinking))
    return sum(len(piece.text) for piece in example.pieces[before:])


def _played(rng: random.Random, example: Example, offer: Kit, room: int, *, thinking: bool) -> Example:
    used = len(example.text())
    while True:
        used += play(example, offer.scenario(rng), thinking=thinking)
        if used > room:
            return example


def _repetition(rng: random.Random, words: list[str]) -> tuple[str, str]:
    return f"Repeat: {' '.join(words)}", " ".join(words)


def _value_of_a_key(rng: random.Random, words: list[str]) -> tuple[str, str]:
    values = {word: TRAIN.pick(rng, (common(rng), str(rng.randint(2, 9999)))) for word in words}
    word = rng.choice(words)
    if rng.random() < 0.5:
        return f"{json.dumps(values)} What is {word}?", values[word]
    return f"{json.dumps(values)} Call answer with {word}.", chat.calls((("answer", {word: values[word]}),))


def _alike(rng: random.Random, names: Collection[str]) -> tuple[str | None, str | None]:
    """Verb or noun of one of these tools at times."""
    if not names or rng.random() > _ALIKE:
        return None, None
    verb, _, noun = rng.choice(sorted(names)).rpartition("_")
    return (verb, None) if rng.random() < 0.6 else (None, noun)
