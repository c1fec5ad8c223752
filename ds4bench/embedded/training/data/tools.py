# ruff: noqa: E501  (tables of text: one entry a line)
"""Scenarios with tools: the right tool among several, arguments from the user's words, chains, refusals, errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds4bench.embedded.training.data import chat
from ds4bench.embedded.training.data.tool_pools import TRAIN, Pools, common

Json = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One reply of the assistant: calls and what they give back, or the text that ends the scenario."""

    calls: tuple[tuple[str, Json], ...] = ()
    results: tuple[str, ...] = ()
    text: str = ""
    thought: str = ""
    must_have: tuple[str, ...] = ()

    def reply(self, *, thinking: bool) -> str:
        """As the model writes it, without the end token."""
        return chat.answer(chat.calls(self.calls) if self.calls else self.text, self.thought if thinking else None)


@dataclass
class Scenario:
    """A request, the tools it needs (others may be offered too), and the assistant's turns."""

    category: str
    request: str
    tools: list[Json]
    turns: list[Turn]


def _text_value(rng: random.Random, pools: Pools) -> str:
    return _words(rng, pools)


@dataclass
class Kind:
    """A kind of parameter: JSON type, names, how a request says it, values."""

    type: str
    names: tuple[str, ...]
    says: tuple[str, ...]
    draw: Callable[[random.Random, Pools], Any]
    extra: Json = field(default_factory=dict)


_KINDS = (
    Kind("string", ("location", "city", "place"), (" in {}", " at {}"), lambda r, p: p.pick(r, p.places).capitalize()),
    Kind("string", ("person", "name", "owner"), (" for {}", " of {}"), lambda r, p: p.pick(r, p.people).capitalize()),
    Kind("string", ("date", "day"), (" on {}",), lambda r, p: f"2026-{r.randint(1, 12):02}-{r.randint(1, 28):02}"),
    Kind("string", ("time", "hour"), (" at {}",), lambda r, p: f"{r.randint(0, 23):02}:{r.choice((0, 15, 30, 45)):02}"),
    Kind("integer", ("count", "number", "amount"), (" with the number {}", " with {} pieces"), lambda r, p: r.randint(2, 999)),
    Kind("integer", ("minutes", "duration"), (" for {} minutes",), lambda r, p: r.randint(2, 90)),
    Kind("string", ("text", "message", "body"), (' with the text "{}"', " saying: {}"), _text_value),
    Kind("string", ("email", "address"), (" using {}",), lambda r, p: f"{p.vary(r, p.people).lower()}@{r.choice(('mail', 'post', 'work'))}.com"),
    Kind("string", ("color", "mode"), (" in {}", " as {}"), lambda r, p: r.choice(("red", "blue", "green", "white", "black")),
         {"enum": ["red", "blue", "green", "white", "black"]}),
    Kind("boolean", ("urgent", "fast"), (" with high urgency",), lambda r, p: True),
)  # fmt: skip
SEARCHES = ("query", "name", "title")
_UNKNOWN_NAMES = 0.25
"""Share of the training tools' parameters with a made-up name, to be read from the schema."""


@dataclass(frozen=True)
class Tool:
    """A generated tool with one use of it."""

    verb: str
    noun: str
    schema: Json
    says: str
    arguments: Json
    lookup: bool
    parameters: tuple[tuple[Kind, str], ...]

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(self.schema["name"])


def scenario(rng: random.Random, pools: Pools = TRAIN, category: str | None = None) -> Scenario:
    """A scenario of category A (one tool), B (arguments, two calls), C (chain), D (no tool), E (errors)."""
    category = category or rng.choice("AABBCCDDE")
    makers: dict[str, Callable[[random.Random, Pools], Scenario]] = {
        "A": single, "B": double, "C": chain, "D": restraint, "E": failure,
    }  # fmt: skip
    return makers[category](rng, pools)


def offered(
    rng: random.Random, pools: Pools, needed: list[Json], count: int, forbidden: Collection[str] = ()
) -> list[Json]:
    """The needed tools among others, in random order; none of the others has a forbidden name."""
    tools = {tool["name"]: tool for tool in needed}
    while len(tools) < count:
        other = tool(rng, pools, lookup=rng.random() < 0.4)
        if other.name not in forbidden:
            tools.setdefault(other.name, other.schema)
    return rng.sample(list(tools.values()), len(tools))


def _alike(rng: random.Random, known: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """(verb, noun) that a tool shares with a known one, so that only both together tell it from that one."""
    if not known or rng.random() < 0.5:
        return None, None
    verb, noun = rng.choice(known)
    return (verb, None) if rng.random() < 0.6 else (None, noun)


def tool(rng: random.Random, pools: Pools, *, lookup: bool, noun: str | None = None, verb: str | None = None) -> Tool:
    """A tool of one to three parameters and a use of it."""
    verb = verb or pools.verb(rng, pools.lookups if lookup else pools.actions)
    noun = noun or pools.pick(rng, pools.nouns)
    kinds = rng.sample(_KINDS, rng.choice((1, 1, 2, 2, 3)))
    return _used(rng, pools, verb, noun, [(kind, None) for kind in kinds], lookup=lookup)


def again(rng: random.Random, pools: Pools, known: Tool) -> Tool:
    """The same tool with another use of it."""
    return _used(rng, pools, known.verb, known.noun, known.parameters, lookup=known.lookup)


def _used(
    rng: random.Random, pools: Pools, verb: str, noun: str, wanted: Sequence[tuple[Kind, str | None]], *, lookup: bool
) -> Tool:
    """``wanted``: the kinds of the parameters, each with its name where that is settled."""
    properties: Json = {}
    arguments: Json = {}
    says = ""
    parameters = []
    for kind, settled in wanted:
        name = settled or pools.vary(rng, kind.names, _UNKNOWN_NAMES)
        value = kind.draw(rng, pools)
        properties[name] = {"type": kind.type, **kind.extra}
        arguments[name] = value
        parameters.append((kind, name))
        says += rng.choice(kind.says).format(value)
    schema = _schema(f"{verb}_{noun}", f"{_plain(verb).capitalize()} the {noun}.", properties)
    return Tool(verb, noun, schema, says, arguments, lookup, tuple(parameters))


def single(rng: random.Random, pools: Pools, known: Tool | None = None) -> Scenario:
    """One call, and what it gives back told."""
    used = known or tool(rng, pools, lookup=rng.random() < 0.4)
    result, text, key = _result(rng, pools, used)
    call = Turn(((used.name, used.arguments),), (result,), thought=_thought(used))
    end = Turn(text=text, thought="The tool gave the answer.", must_have=(key,))
    return Scenario("A", _request(rng, pools, used), [used.schema], [call, end])


def double(rng: random.Random, pools: Pools, known: tuple[Tool, Tool] | None = None) -> Scenario:
    """Two wishes in one message, two calls in one reply."""
    one, two = known or (tool(rng, pools, lookup=rng.random() < 0.5), tool(rng, pools, lookup=rng.random() < 0.5))
    if one.name == two.name and known is None:
        return double(rng, pools)
    first, text1, key1 = _result(rng, pools, one)
    second, text2, key2 = _result(rng, pools, two)
    calls = ((one.name, one.arguments), (two.name, two.arguments))
    said = _request(rng, pools, two)
    request = pools.wording(rng, pools.pairs).format(
        one=_request(rng, pools, one), two=said[0].lower() + said[1:] if said[:2] != "I " else said
    )
    turns = [
        Turn(calls, (first, second), thought=f"{_thought(one)} {_thought(two)}"),
        Turn(text=f"{text1} {text2}", thought="Both tools gave an answer.", must_have=(key1, key2)),
    ]
    return Scenario("B", request, [one.schema, two.schema], turns)


def chain(rng: random.Random, pools: Pools, known: tuple[str, str, str] | None = None) -> Scenario:
    """A search, and a call with the id that it found. ``known``: noun, verb, the search's parameter."""
    noun, verb = known[:2] if known else (pools.pick(rng, pools.nouns), pools.verb(rng, pools.actions))
    name = pools.pick(rng, (*pools.values, *pools.people))
    key, query = f"{noun}_id", known[2] if known else rng.choice(SEARCHES)
    search = _schema(f"find_{noun}", f"Find the {noun}.", {query: {"type": "string"}})
    act = _schema(f"{verb}_{noun}", f"{_plain(verb).capitalize()} the {noun}.", {key: {"type": "string"}})
    found = f"{noun[:4]}_{rng.randint(100, 999)}"
    turns = [
        Turn(
            ((search["name"], {query: name}),),
            (json.dumps({key: found, "name": name}),),
            thought=f"First the tool find_{noun}.",
        ),
        Turn(
            ((act["name"], {key: found}),),
            (json.dumps({"status": "ok"}),),
            thought=f"The id is {found}. Next the tool {act['name']}.",
        ),
        Turn(text=f"Done: {verb} the {noun} {found}.", thought="All is done.", must_have=(found,)),
    ]
    said = _plain(verb)
    request = pools.wording(rng, pools.chains).format(noun=noun, verb=said, Verb=said.capitalize(), name=name)
    return Scenario("C", request, [search, act], turns)


def restraint(rng: random.Random, pools: Pools, unserved: Tool | None = None) -> Scenario:
    """Nothing to call: a fact from the message, a sum, or a wish that no tool serves."""
    if rng.random() < 0.4:
        slots = {
            "noun": pools.pick(rng, pools.nouns),
            "value": pools.pick(rng, pools.values),
            "person": pools.vary(rng, pools.people).capitalize(),
        }
        question, fact = rng.choice(pools.facts)
        question, fact = pools.filled(rng, question).format(**slots), fact.format(**slots)
        return Scenario("D", question, [], [Turn(text=fact, thought="No tool is needed.", must_have=(fact,))])
    if rng.random() < 0.3:
        x, y = rng.randint(2, 40), rng.randint(2, 40)
        text = f"{x} + {y} = {x + y}"
        asked = rng.choice(("What is {} + {}?", "How much is {} + {}?")).format(x, y)
        return Scenario("D", asked, [], [Turn(text=text, thought="No tool is needed.", must_have=(str(x + y),))])
    wanted = unserved or tool(rng, pools, lookup=rng.random() < 0.3)
    text = f"I cannot {_plain(wanted.verb)} the {wanted.noun}: I do not have a tool for that."
    return Scenario(
        "D",
        _request(rng, pools, wanted),
        [],
        [Turn(text=text, thought=f"There is no tool {wanted.name}.", must_have=("cannot",))],
    )


def failure(rng: random.Random, pools: Pools, known: Tool | None = None) -> Scenario:
    """One call that fails, and the error told."""
    used = known or tool(rng, pools, lookup=rng.random() < 0.5)
    error = _words(rng, pools, pools.errors)
    call = Turn(((used.name, used.arguments),), (json.dumps({"error": error}),), thought=_thought(used))
    text = f"The tool {used.name} failed: {error}. Please try again later."
    end = Turn(text=text, thought="The tool failed.", must_have=(error,))
    return Scenario("E", _request(rng, pools, used), [used.schema], [call, end])


def _result(rng: random.Random, pools: Pools, used: Tool) -> tuple[str, str, str]:
    """(what the tool gives back, the answer made of it, the part of the answer that must be there)."""
    if used.lookup:
        value = rng.choice((pools.pick(rng, pools.values), str(rng.randint(2, 999))))
        return json.dumps({used.noun: value}), f"The {used.noun} is {value}.", value
    made = f"{used.noun[:3]}-{rng.randint(100, 9999)}"
    return json.dumps({"status": "ok", "id": made}), f"Done. The id is {made}.", made


def _words(rng: random.Random, pools: Pools, options: tuple[str, ...] = ()) -> str:
    """A short text of the pool, or words without a sense."""
    if rng.random() < pools.invented:
        return " ".join(pools.pick(rng, (*pools.nouns, common(rng))) for _ in range(rng.randint(2, 6)))
    return rng.choice(options or pools.texts)


def _request(rng: random.Random, pools: Pools, used: Tool) -> str:
    verb = _plain(used.verb)
    return pools.wording(rng, pools.requests).format(verb=verb, Verb=verb.capitalize(), noun=used.noun, with_=used.says)


def _thought(used: Tool) -> str:
    return f"The user wants to {_plain(used.verb)} the {used.noun}. The tool is {used.name}."


def _plain(verb: str) -> str:
    return verb.replace("_", " ")


def _schema(name: str, description: str, properties: Json) -> Json:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description, "parameters": parameters}


def _wanted(s: Scenario) -> str | None:
    """The name that a refusal says is missing."""
    thought = s.turns[0].thought
    return thought.removeprefix("There is no tool ").rstrip(".") if thought.startswith("There is no tool") else None


def refused_names(scenarios: list[Scenario]) -> set[str]:
    """Names of the tools that refusals miss: none of them may be offered."""
    return {name for s in scenarios if (name := _wanted(s)) is not None}
