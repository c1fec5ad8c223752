# ruff: noqa: E501  (sentences: one entry a line)
"""Scenes about money, work, goals that are reached day by day, and the price or size of one of many."""

from __future__ import annotations

from ds4bench.embedded.training.data import scene_words
from ds4bench.embedded.training.data.scene_builder import Quantity, Scene, UnfitError


def shopping(scene: Scene) -> None:
    """One to three goods at a price each; total, change, money that is missing, or a share of the bill."""
    rng, costs = scene.rng, []
    nouns = rng.sample([noun for theme in scene_words.THEMES for noun in theme.nouns], 3)
    for noun in nouns[: rng.choice((1, 2, 2, 3))]:
        price = scene.pick(*rng.choice(((2, 12), (5, 40))))
        slots = {"good": noun, "goods": scene_words.plural(noun)}
        if rng.random() < 0.3:
            scene.tell(
                "({S} [buys/bought] a {good} for ${x}.|{S} [pays/paid] ${x} for a {good}.|A {good} [costs/cost] {n} ${x}.|{S} [spends/spent] ${x} on (a {good}|{goods}).|For ${x}, {n} [gets/got] a {good}.)",
                price,
                kind="extra",
                **slots,
            )
            costs.append(price)
            continue
        count = scene.pick(2, 9)
        scene.tell(rng.choice(_BUYS), count, price, kind="extra", **slots)
        cost = scene.calc(count, "*", price, "The {goods} [cost/cost] {c} dollars.", **slots)
        scene.ask(
            cost,
            "(How much [does/did] {s} pay for the {goods}?|How much [do/did] the {goods} cost (in total|)?|How many dollars [does/did] {s} spend on {goods}?|What [is/was] the cost of the {goods}?)",
            **slots,
        )
        costs.append(cost)
    total = costs[0]
    for cost in costs[1:]:
        total = scene.calc(total, "+", cost, "(In all|Together) {n} [pays/paid] {c} dollars.")
    if len(costs) > 1:
        scene.ask(
            total,
            "(How much [does/did] {s} (pay|spend) (in total|altogether|in all)?|What [is/was] the total (cost|price|bill) (in dollars|)?|How much money [does/did] {s} need for (everything|all of this)?|How many dollars [does/did] {s} spend?)",
        )
    rng.choice((_change, _change, _missing, _split))(scene, total)


_BUYS = (
    "{S} [buys/bought] {x} {goods} (for|at) ${y} each.", "{S} [buys/bought] {x} {goods} that [cost/cost] ${y} (each|apiece).", "A {good} [costs/cost] ${y}, and {n} [buys/bought] {x} (of them|{goods}).", "{S} [needs/needed] {x} {goods}. The price of one {good} [is/was] ${y}.", "For each of {x} {goods}, {n} [pays/paid] ${y}.", "{n} [gets/got] {x} {goods}, which [are/were] ${y} each.",
    "At ${y} a {good}, {n} [buys/bought] {x} {goods}.", "Each {good} [costs/cost] ${y}. {S} [takes/took] {x} of them.", "{S} [pays/paid] ${y} for every {good} and [buys/bought] {x} {goods}.", "The shop [sells/sold] {goods} for ${y} each, and {n} [wants/wanted] {x} of them.", "{S} [orders/ordered] {x} {goods}, each (for|at) ${y}.", "${y} [is/was] the price of a {good}; {n} [takes/took] {x}.",
)  # fmt: skip


def _change(scene: Scene, total: Quantity) -> None:
    money = Quantity(total.value + scene.rng.randint(2, 60))
    scene.tell(
        "({S} [has/had] ${x} (with {him}|in {his} purse|in {his} pocket|).|{S} [pays/paid] with ${x}.|{n}'s {kin} [gives/gave] {him} ${x} for this.|{S} [hands/handed] the cashier ${x}.|{S} [takes/took] ${x} along.|{S} [starts/started] with ${x}.|Before this, {n} [has/had] ${x}.|There [are/were] ${x} in {n}'s wallet at first.)",
        money,
    )
    left = scene.calc(money, "-", total, "{n} [has/had] {c} dollars left.")
    scene.ask(
        left,
        "(How much money [does/did] {s} have left?|How much change [does/did] {s} get?|How many dollars [are/were] left?|How much money [is/was] left?|How much of {his} money [does/did] {s} keep?|What [is/was] {his} change?)",
    )


def _missing(scene: Scene, total: Quantity) -> None:
    if total.value < 6:
        raise UnfitError
    has = scene.pick(2, total.value - 2)
    scene.tell(
        "({S} only [has/had] ${x}.|{S} [has/had] saved ${x} (so far|).|{n} [has/had] no more than ${x}.|{n}'s {kin} [pays/paid] ${x} of it.|So far, {n} [has/had] ${x}.|{S} [has/had] a coupon for ${x} off the total.)",
        has,
    )
    need = scene.calc(total, "-", has, "{n} still [needs/needed] {c} dollars.")
    scene.ask(
        need,
        "(How much more money [does/did] {s} need?|How many more dollars [does/did] {s} need?|How much [is/was] still missing?|How much [does/did] {s} still have to pay?)",
    )


def _split(scene: Scene, total: Quantity) -> None:
    by = scene.divisor(total.value, 9)
    scene.tell(
        "({n} and {his} friends, {x} persons in all, [share/shared] the cost equally.|The bill [is/was] split equally among {x} people.|{x} friends [pay/paid] for this together, each the same amount.|The cost [is/was] divided equally among {x} people.)",
        by,
    )
    each = scene.calc(total, "/", by, "Each one [pays/paid] {c} dollars.")
    scene.ask(
        each,
        "(How much [does/did] each (one|person) pay?|How many dollars [does/did] each (one|person) have to pay?|What [is/was] one person's share in dollars?)",
    )


_WORK = (
    ("bakes", "loaves", "oven"),
    ("makes", "chairs", "worker"),
    ("prints", "posters", "printer"),
    ("sews", "shirts", "tailor"),
    ("packs", "crates", "worker"),
    ("types", "pages", "typist"),
    ("produces", "toys", "machine"),
    ("fills", "bottles", "machine"),
    ("paints", "tiles", "painter"),
    ("builds", "kites", "student"),
    ("washes", "windows", "cleaner"),
    ("knits", "caps", "knitter"),
    ("folds", "boxes", "robot"),
    ("checks", "tests", "teacher"),
    ("plants", "trees", "gardener"),
)


def work(scene: Scene) -> None:
    """Output or pay per hour, hours a day, days; one or several workers; a goal."""
    rng = scene.rng
    rate, hours = scene.pick(2, 25), scene.pick(2, 9)
    if rng.random() < 0.5:
        unit = "dollars"
        scene.tell(
            "({S} [earns/earned] ${x} (an hour|per hour|each hour|for every hour of work).|{n}'s (wage|pay) [is/was] ${x} (an hour|per hour).|For (one|an|each) hour of work, {n} [is/was] paid ${x}.|{S} [gets/got] ${x} for each hour of (work|painting|teaching|driving|cleaning).|A job [pays/paid] {n} ${x} an hour.)",
            rate,
        )
        scene.tell(
            "({S} [works/worked] {x} hours (a day|each day|every day).|{n}'s (shift|day) [lasts/lasted] {x} hours.|(Each|Every) day {n} [works/worked] (for|) {x} hours.|{S} [spends/spent] {x} hours at work (a|each) day.)",
            hours,
        )
        who = "{n}"
    else:
        verb, unit, worker = rng.choice(_WORK)
        scene.tell(
            "(A {w} [V/V] {x} {u} (an hour|per hour|every hour|each hour).|In (one|an) hour, a {w} [V/V] {x} {u}.|(Each|Every) hour, a {w} [V/V] {x} {u}.|A {w} [V/V] {u} at a rate of {x} (an|per) hour.|It takes a {w} one hour for {x} {u}.)".replace(
                "[V/V]", verb
            )
            .replace("A {w}", "An {w}" if worker == "oven" else "A {w}")
            .replace(" a {w}", " an {w}" if worker == "oven" else " a {w}"),
            rate,
            w=worker,
            u=unit,
        )
        scene.tell(
            "(It [runs/ran] (for|) {x} hours (a|each|every) day.|The work [goes/went] on for {x} hours (a|each|every) day.|(Each|Every) day has {x} hours of work.|A day of work has {x} hours.)".replace(
                "It ", "The {w} " if worker in ("oven", "machine", "printer", "robot") else "The work "
            ).replace("work [runs/ran]", "work [lasts/lasted]"),
            hours,
            w=worker,
        )
        who = "The " + worker
    scene.loose = True
    daily = scene.calc(rate, "*", hours, f"In a day that [is/was] {{c}} {unit}.")
    scene.ask(
        daily,
        f"(How many {unit} is that (a day|in one day|per day)?|How many {unit} are there after one day?|What is the number of {unit} for one day?)",
    )
    total = daily
    if rng.random() < 0.6:
        days = scene.pick(2, 7)
        scene.tell(
            "(This [goes/went] on for {x} days.|The job [takes/took] {x} days.|There [are/were] {x} days of work in all.|(It|This) [is/was] done on {x} days.)"
            if who != "{n}"
            else "({S} [works/worked] {x} days (a week|in all|this week).|{S} [does/did] this for {x} days.|The job [takes/took] {x} days.|There [are/were] {x} such days.)",
            days,
        )
        total = scene.calc(daily, "*", days, f"In all that [is/was] {{c}} {unit}.")
        scene.ask(
            total,
            f"(How many {unit} is that in (all|total)?|How many {unit} [are/were] there in the end?|What [is/was] the number of {unit} for all days?|How many {unit} does that make?)",
        )
    kind = rng.random()
    if kind < 0.25:
        goal = Quantity(total.value + rng.randint(3, 80))
        scene.tell(
            "(The goal [is/was] {x} {u}.|{x} {u} [are/were] needed.|An aim of {x} {u} [is/was] set.|In the end there must be {x} {u}.)",
            goal,
            u=unit,
        )
        scene.ask(
            scene.calc(goal, "-", total, f"There [are/were] {{c}} {unit} missing."),
            f"(How many {unit} are still missing?|How many more {unit} are needed?|By how many {unit} is the goal missed?)",
        )
    elif kind < 0.5:
        out = scene.pick(2, max(2, min(60, total.value - 1)))
        gone = (
            "({S} [spends/spent] {x} of these dollars (on food|on books|on rent).|Of this money, {x} dollars [go/went] to {n}'s {kin}.|{x} dollars of it [are/were] spent.)"
            if unit == "dollars"
            else "({x} of the {u} [are/were] (sold|bad|given away|lost).|Of these {u}, {x} [are/were] (sold|thrown away|used).)"
        )
        scene.tell(gone, out, u=unit)
        scene.ask(
            scene.calc(total, "-", out, f"There [are/were] {{c}} {unit} left."),
            f"(How many {unit} [are/were] left?|How many {unit} remain?|What number of {unit} [is/was] left?)",
        )


def unit_price(scene: Scene) -> None:
    """So many for a total: the price or size of one, and then of another number of them."""
    count, each = scene.pick(2, 12), scene.pick(2, 30)
    total = scene.calc(count, "*", each, "")
    total = Quantity(total.value)
    if scene.rng.random() < 0.6:
        scene.tell(
            "({x} {things} cost ${y} (in total|altogether|).|{S} [pays/paid] ${y} for {x} {things}.|For {x} {things} that all [cost/cost] the same, {n} [pays/paid] ${y}.|A {box} of {x} {things} [costs/cost] ${y}.|${y} [is/was] the price of {x} equal {things}.)",
            count,
            total,
        )
        one = scene.calc(total, "/", count, "One {thing} [costs/cost] {c} dollars.")
        unit, asked, more = (
            "dollars",
            "(How much [does/did] (one|each) {thing} cost?|What [is/was] the price of one {thing}?|How many dollars is that (for each|per) {thing}?)",
            "(How much [do/did] {k} {things} cost?|What [is/was] the price of {k} {things}?|How much would {s} pay for {k} {things}?)",
        )
    else:
        scene.tell(
            "({S} GAIN {y} {things} in {x} days, the same number each day.|In {x} (days|weeks), {n} GAIN {y} {things}, always the same number.|It [takes/took] {n} {x} days for {y} {things}, with the same number each day.|{y} {things} [are/were] packed equally in {x} {boxes}.)".replace(
                "(days|weeks)", "days"
            ),
            count,
            total,
        )
        boxed = "{box}" if "packed" in scene.facts[-1].text else "day"
        unit = "{things}"
        one = scene.calc(total, "/", count, f"In one {boxed} that [is/was] {{c}} {{things}}.")
        asked = f"(How many {{things}} is that (per|for each|for one) {boxed}?|What is the number of {{things}} for one {boxed}?)"
        more = f"(How many {{things}} would that be for {{k}} {boxed}s?|At this rate, how many {{things}} is that for {{k}} {boxed}s?)".replace(
            "{box}s", "{boxes}"
        )
    scene.ask(one, asked)
    if scene.rng.random() < 0.55:
        other = scene.pick(2, 15)
        final = scene.calc(one, "*", other, f"That [makes/made] {{c}} {unit}.")
        scene.ask(final, more, k=str(other.value))


def saving(scene: Scene) -> None:
    """A book, a debt, or savings that go on by so many a day until a goal."""
    rng = scene.rng
    unit, verb, base, goal = rng.choice(
        (
            ("pages", "[reads/read]", "read", "a book with {x} pages"),
            ("dollars", "[saves/saved]", "save", "a bike for {x} dollars"),
            ("problems", "[solves/solved]", "solve", "homework of {x} problems"),
            ("pieces", "[places/placed]", "place", "a puzzle of {x} pieces"),
            ("miles", "[hikes/hiked]", "hike", "a trail of {x} miles"),
            ("words", "[writes/wrote]", "write", "a text of {x} words"),
            ("bricks", "[lays/laid]", "lay", "a wall of {x} bricks"),
            ("rows", "[knits/knitted]", "knit", "a scarf of {x} rows"),
        )
    )
    daily, days = scene.pick(2, 30), scene.pick(2, 12)
    scene.loose = rng.random() < 0.5
    whole = Quantity(daily.value * days.value + rng.randint(3, 150))
    wish = "wants to buy" if unit == "dollars" else "has to finish"
    scene.tell(f"({{S}} {wish} {goal}.|{{n}}'s plan is {goal}.|{{S}} works toward {goal}.)", whole, kind="extra")
    scene.tell(
        f"({{S}} {verb} {{x}} {unit} (a|each|every|per) day for {{y}} days.|For {{y}} days, {{n}} {verb} {{x}} {unit} (a|each|every) day.|On each of {{y}} days, {{n}} {verb} {{x}} {unit}.|{{S}} {verb} {{x}} {unit} a day and [does/did] so for {{y}} days.|(Each|Every) day {{n}} {verb} {{x}} {unit}, and {{y}} days have passed.)",
        daily,
        days,
    )
    done = scene.calc(daily, "*", days, f"{{n}} {verb} {{c}} {unit}.")
    scene.ask(
        done,
        f"(How many {unit} [does/did] {{s}} {base} (in all|in this time|in total)?|How many {unit} has {{n}} done so far?|What number of {unit} [is/was] done (then|so far)?)",
    )
    rest = scene.calc(whole, "-", done, f"There are {{c}} {unit} left.")
    scene.ask(
        rest,
        f"(How many {unit} are (left|still missing)?|How many more {unit} does {{s}} have to {base}?|How many {unit} remain?|How many {unit} does {{s}} still need?)",
    )
    if rng.random() < 0.4:
        by = scene.divisor(rest.value, 15)
        scene.tell(
            "(The rest must be done in {x} days, the same number each day.|{S} [wants/wanted] to finish in {x} more days with equal parts.)",
            by,
        )
        scene.ask(
            scene.calc(rest, "/", by, f"That is {{c}} {unit} a day."),
            f"(How many {unit} is that (a|per|each) day?|How many {unit} must {{n}} {base} each day?)",
        )


FAMILIES = (shopping, work, unit_price, saving)
WEIGHTS = (15, 7, 5, 5)
