# ruff: noqa: E501  (sentences: one entry a line)
"""Word problems composed of quantities and relations, so that their sentences teach what the words mean.

``scene`` draws a family, which states facts and questions on a ``Scene``; numbers that do not fit are drawn again.
Here is the family of things that someone holds: a source, changes, and what is done with them in the end.
"""

from __future__ import annotations

import random

from ds4bench.embedded.training.data import scene_relations, scene_shapes, scene_topics
from ds4bench.embedded.training.data import scene_words as t
from ds4bench.embedded.training.data.problems import Problem
from ds4bench.embedded.training.data.scene_builder import Quantity, Scene, UnfitError

_TRIES = 500
_HAS = "(After that {n}|Then {n}|{n}) [has/had] {c} {things}."
_KEEPS = "{n} [has/had] {c} {things} left."


def scene(rng: random.Random) -> Problem:
    """A problem of one to four steps."""
    family = rng.choices(_FAMILIES, _WEIGHTS)[0]
    for _ in range(_TRIES):
        made = Scene(rng)
        try:
            family(made)
            return made.problem()
        except UnfitError:
            continue
    raise RuntimeError(f"no scene in {_TRIES} tries: {family.__name__}")


def holdings(scene: Scene) -> None:
    """Someone gets things, gains and loses some, and shares, packs, sells or compares them."""
    rng = scene.rng
    held = rng.choice(_SOURCES)(scene)
    for _ in range(rng.choice((0, 1, 1, 2))):
        held = rng.choice(_CHANGES)(scene, held)
    last = scene.asks[-1:]
    scene.asks.clear()
    if last and rng.random() < 0.45:
        scene.asks.extend(last)
    else:
        rng.choice(_ENDS)(scene, held)


def _own(scene: Scene) -> Quantity:
    held = scene.pick(*scene.rng.choice(((4, 30), (10, 99), (30, 300))))
    scene.tell(scene.rng.choice(t.OWN), held)
    return held


def _groups(scene: Scene) -> Quantity:
    count, each = scene.pick(2, 15), scene.pick(2, 20)
    scene.tell(scene.rng.choice(t.GROUPS), count, each)
    held = scene.calc(count, "*", each, "{n} [has/had] {c} {things}.")
    scene.ask(held, scene.rng.choice(t.TOTAL))
    return held


def _rate(scene: Scene) -> Quantity:
    each, times = scene.pick(2, 25), scene.pick(2, 12)
    scene.tell(scene.rng.choice(t.RATES), each, times)
    held = scene.calc(each, "*", times, "{n} [gets/got] {c} {things}.")
    scene.ask(held, scene.rng.choice(t.TOTAL))
    return held


def _kinds(scene: Scene) -> Quantity:
    one, other = scene.pick(2, 90), scene.pick(2, 60)
    scene.tell(scene.rng.choice(t.KINDS), one, other)
    held = scene.calc(one, "+", other, "{n} [has/had] {c} {things}.")
    scene.ask(held, scene.rng.choice(t.TOTAL))
    return held


def _turned(scene: Scene) -> Quantity:
    start, lost = scene.pick(6, 120), scene.pick(2, 60)
    held = scene.calc(start, "-", lost, _KEEPS)
    scene.tell(scene.rng.choice(t.BEFORE), start, lost)
    scene.ask(held, scene.rng.choice(t.LEFT))
    return held


def _gain(scene: Scene, held: Quantity) -> Quantity:
    more = scene.pick(*scene.rng.choice(((2, 20), (5, 99))))
    scene.tell(scene.rng.choice(t.GAINS), more, kind="event")
    made = scene.calc(held, "+", more, _HAS)
    scene.ask(made, scene.rng.choice(t.STATE))
    return made


def _gain_groups(scene: Scene, held: Quantity) -> Quantity:
    count, each = scene.pick(2, 9), scene.pick(2, 12)
    scene.tell(scene.rng.choice(t.GAIN_GROUPS), count, each, kind="event")
    more = scene.calc(count, "*", each, "That [is/was] {c} more {things}.")
    made = scene.calc(held, "+", more, _HAS)
    scene.ask(made, scene.rng.choice(t.STATE))
    return made


def _gain_times(scene: Scene, held: Quantity) -> Quantity:
    times = scene.pick(2, 5)
    word = "twice" if times.value == 2 else f"{times.value} times"
    scene.tell(
        "({M} [gives/gave] {n} {t} as many {things} as {s} already [has/had].|{n}'s {kin} [brings/brought] {him} {t} as many {things} as {s} [has/had] before.|{S} also [gets/got] {t} as many {things} as {s} [has/had] so far.)",
        times,
        kind="event",
        t=word,
    )
    more = scene.calc(held, "*", times, "{n} [gets/got] {c} more {things}.")
    made = scene.calc(held, "+", more, _HAS)
    scene.ask(made, scene.rng.choice(t.STATE))
    return made


def _loss(scene: Scene, held: Quantity) -> Quantity:
    lost = scene.pick(2, min(99, max(2, held.value - 1)))
    scene.tell(scene.rng.choice(t.LOSSES), lost, kind="event")
    made = scene.calc(held, "-", lost, _KEEPS)
    scene.ask(made, scene.rng.choice(t.LEFT))
    return made


def _loss_groups(scene: Scene, held: Quantity) -> Quantity:
    count, each = scene.pick(2, 9), scene.pick(2, 9)
    scene.tell(scene.rng.choice(t.LOSE_GROUPS), count, each, kind="event")
    lost = scene.calc(count, "*", each, "{n} [loses/lost] {c} {things}.")
    made = scene.calc(held, "-", lost, _KEEPS)
    scene.ask(made, scene.rng.choice(t.LEFT))
    return made


def _loss_part(scene: Scene, held: Quantity) -> Quantity:
    divisor = scene.divisor(held.value, 5)
    part = scene_relations.PARTS[divisor.value][0]
    scene.tell(scene.rng.choice(t.LOSE_PART), divisor, kind="event", part=part, Part=part.capitalize())
    lost = scene.calc(held, "/", divisor, part.capitalize() + " of them [is/was] {c} {things}.")
    made = scene.calc(held, "-", lost, _KEEPS)
    scene.ask(made, scene.rng.choice(t.LEFT))
    return made


def _share(scene: Scene, held: Quantity) -> None:
    by = scene.divisor(held.value)
    fact, asked = scene.rng.choice(t.SHARE)
    scene.tell(fact, by)
    each = scene.calc(held, "/", by, "(Each one|Each share) [has/had] {c} {things}.")
    scene.ask(each, asked)


def _pack(scene: Scene, held: Quantity) -> None:
    size = scene.divisor(held.value)
    fact, asked = scene.rng.choice(t.PACK)
    scene.tell(fact, size)
    noun = "days" if "days" in asked else "{people}" if "{people}" in asked else "{crates}"
    count = scene.calc(held, "/", size, "That [makes/made] {c} " + noun + ".", people="people")
    scene.ask(count, asked)


def _sell(scene: Scene, held: Quantity) -> None:
    price = scene.pick(2, 12)
    fact, asked = scene.rng.choice(t.SELL)
    scene.tell(fact, price)
    money = scene.calc(held, "*", price, "The {things} [bring/brought] {c} dollars.")
    scene.ask(money, asked)
    if scene.rng.random() < 0.3:
        cost = scene.pick(2, 60)
        scene.tell(
            "({S} [spends/spent] ${x} of this money (on lunch|on a gift|on a new tool|at the market).|Out of this money, {s} [pays/paid] ${x} for (materials|a ticket|a book).|{S} [has/had] to pay ${x} for (a stand|boxes|the bus).)",
            cost,
        )
        left = scene.calc(money, "-", cost, "{n} [has/had] {c} dollars left.")
        scene.ask(
            left,
            "(How much money [does/did] {s} have left?|How many dollars [are/were] left?|How much (of the money|) [does/did] {s} keep?)",
        )


def _goal(scene: Scene, held: Quantity) -> None:
    goal = Quantity(held.value + scene.rng.randint(2, 90))
    fact, asked = scene.rng.choice(t.GOAL)
    scene.tell(fact, goal)
    scene.ask(scene.calc(goal, "-", held, "{n} [needs/needed] {c} more {things}."), asked)


def _compare(scene: Scene, held: Quantity) -> None:
    other = scene.pick(2, 150)
    scene.tell(scene.rng.choice(t.OTHER_HAS), other)
    if scene.rng.random() < 0.5:
        both = scene.calc(held, "+", other, "Together they [have/had] {c} {things}.")
        scene.ask(
            both,
            "(How many {things} [do/did] {n} and {M} have (together|altogether|in total|in all)?|How many {things} [do/did] the two have (together|in all)?|What [is/was] their total number of {things}?)",
        )
    elif held.value > other.value:
        more = scene.calc(held, "-", other, "{n} [has/had] {c} {things} more.")
        scene.ask(
            more,
            "(How many more {things} [does/did] {n} have than {M}?|By how many {things} [is/was] {n} ahead of {M}?|How many fewer {things} [does/did] {M} have than {n}?)",
        )
    else:
        fewer = scene.calc(other, "-", held, "{M} [has/had] {c} {things} more.", M=scene.people[1].name)
        scene.ask(
            fewer,
            "(How many more {things} [does/did] {M} have than {n}?|How many fewer {things} [does/did] {n} have than {M}?|How many {things} [does/did] {n} need to have as many as {M}?)",
        )


def backwards(scene: Scene) -> None:
    """The end is told, the beginning or the change is asked."""
    end, change = scene.pick(2, 150), scene.pick(2, 80)
    kind = scene.rng.random()
    if kind < 0.4:
        scene.tell(
            "(After giving {x} {things} to {M}, {n} [has/had] {y} (left|{things} left).|{n} [gives/gave] away {x} {things} and still [has/had] {y}.|{S} LOSE {x} {things}, and {y} [are/were] left.|When {x} of {n}'s {things} [are/were] gone, {y} [remain/remained].|{n} has {y} {things} now. Before that {s} [gives/gave] {x} to {M}.)",
            change,
            end,
        )
        start = scene.calc(end, "+", change, "{n} had {c} {things} at first.")
    elif kind < 0.75:
        end = Quantity(end.value + change.value)
        scene.tell(
            "(After getting {x} {things} from {M}, {n} [has/had] {y}.|{M} [gives/gave] {n} {x} {things}, and now {n} has {y}.|{n} has {y} {things} now, {x} of which came from {M}.|{S} [finds/found] {x} more {things}, which [makes/made] {y} in all.|{n} now has {y} {things}. Before that, {M} [gives/gave] {him} {x} of them.)",
            change,
            end,
        )
        start = scene.calc(end, "-", change, "{n} had {c} {things} at first.")
    else:
        begin = Quantity(end.value + change.value)
        scene.tell(
            "({S} had {x} {things}, and after {s} gave some to {M}, {y} were left.|{S} started with {x} {things} and ended with {y}.|There were {x} {things} in {n}'s {box}, but now there are only {y}.|Of {n}'s {x} {things}, only {y} are left.)",
            begin,
            end,
        )
        gone = scene.calc(begin, "-", end, "{c} {things} are gone.")
        scene.ask(
            gone,
            "(How many {things} are gone?|How many {things} are missing now?|How many {things} did {s} lose or give away?)",
        )
        return
    scene.ask(
        start,
        "(How many {things} did {s} have (at first|in the beginning|before that|before)?|With how many {things} did {s} start?|What number of {things} did {s} have at first?)",
    )
    if scene.rng.random() < 0.4:
        _sell(scene, start) if scene.rng.random() < 0.3 else _compare(scene, start)


_SOURCES = (_own, _own, _own, _groups, _groups, _rate, _rate, _kinds, _kinds, _turned)
_CHANGES = (_gain, _gain, _gain_groups, _gain_times, _loss, _loss, _loss_groups, _loss_part)
_ENDS = (_share, _share, _pack, _sell, _goal, _compare)
_FAMILIES = (
    holdings,
    scene_relations.deeds,
    scene_relations.measures,
    backwards,
    *scene_shapes.FAMILIES,
    *scene_topics.FAMILIES,
)
_WEIGHTS = (30, 12, 8, 4, *scene_shapes.WEIGHTS, *scene_topics.WEIGHTS)
