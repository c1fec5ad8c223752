# ruff: noqa: E501  (sentences: one entry a line)
"""Scenes about trips, parts of a whole, legs and wheels, and shapes."""

from __future__ import annotations

from ds4bench.embedded.training.data.scene_builder import Quantity, Scene
from ds4bench.embedded.training.data.scene_relations import PARTS


def trip(scene: Scene) -> None:
    """Speed, time and distance, with a second part or a rest of the way."""
    rng = scene.rng
    who = rng.choice(
        (
            "A car",
            "A train",
            "A bus",
            "A truck",
            "A boat",
            "A bike rider",
            "A van",
            "A ship",
            "A plane",
            scene.people[0].name,
        )
    )
    speed, hours = scene.pick(3, 70), scene.pick(2, 9)
    scene.tell(
        "({W} [goes/went] {x} miles (an hour|per hour|every hour) for {y} hours.|{W} [travels/traveled] for {y} hours at {x} miles (an|per) hour.|For {y} hours, {w} [moves/moved] at a speed of {x} miles an hour.|In (one|each|every) hour {w} [covers/covered] {x} miles, and the trip [takes/took] {y} hours.|{W} [needs/needed] {y} hours at a speed of {x} miles per hour.|At {x} miles an hour, {w} [is/was] on the way for {y} hours.)",
        speed,
        hours,
        W=who,
        w=who if who == scene.people[0].name else "a" + who[1:],
    )
    way = scene.calc(speed, "*", hours, "The way [is/was] {c} miles.")
    scene.ask(
        way,
        "(How many miles is that?|How far is that in miles?|What distance in miles is that?|How long is the way in miles?|How many miles long is this trip?)",
    )
    kind = rng.random()
    if kind < 0.3:
        more = scene.pick(3, 90)
        scene.tell(
            "(After (that|a rest), there [are/were] {x} more miles.|Then it [is/was] {x} miles more.|The next day another {x} miles [are/were] covered.|Before this, {x} miles [are/were] covered.)",
            more,
        )
        scene.ask(
            scene.calc(way, "+", more, "In all it [is/was] {c} miles."),
            "(How many miles is that in (total|all)?|What is the total distance in miles?|How long is the whole way in miles?)",
        )
    elif kind < 0.6:
        whole = Quantity(way.value + rng.randint(5, 150))
        scene.tell(
            "(The whole way [is/was] {x} miles (long|).|The next town [is/was] {x} miles from the start.|The goal [is/was] {x} miles away from the start.|In all, {x} miles must be covered.)",
            whole,
        )
        scene.ask(
            scene.calc(whole, "-", way, "There [are/were] {c} miles left."),
            "(How many miles are left?|How many miles are still to go?|How far is it still in miles?)",
        )
    elif kind < 0.8:
        by = scene.divisor(way.value, 12)
        scene.tell(
            "(On the way back, the trip [takes/took] {x} hours.|The same way back [takes/took] {x} hours.|Another driver [needs/needed] {x} hours for the same way.)",
            by,
        )
        scene.ask(
            scene.calc(way, "/", by, "That [is/was] {c} miles an hour."),
            "(How many miles an hour is that on the second trip?|What is the speed of the second trip in miles per hour?|How fast, in miles an hour, is the second trip?)",
        )


_WHOLES = (
    ("students", "in a class", "girls", "boys"),
    ("people", "on a bus", "adults", "children"),
    ("animals", "on a farm", "cows", "sheep"),
    ("books", "on a shelf", "novels", "textbooks"),
    ("cars", "in a lot", "red", "blue"),
    ("guests", "at a party", "women", "men"),
    ("seats", "in a hall", "taken", "free"),
    ("birds", "in a tree", "crows", "doves"),
    ("eggs", "in a carton", "white", "brown"),
    ("fish", "in a pond", "gold", "gray"),
    ("players", "in a club", "beginners", "experts"),
    ("houses", "on a street", "old", "new"),
    ("tickets", "in a drum", "winners", "blanks"),
    ("lights", "in a hall", "on", "off"),
)


def parts(scene: Scene) -> None:
    """A whole and its parts: of which, a fraction, the rest, and how the two parts differ."""
    rng = scene.rng
    unit, place, one, other = rng.choice(_WHOLES)
    slots = {"u": unit, "p": place, "o": one, "r": other}
    whole = scene.pick(8, 240)
    if rng.random() < 0.45:
        divisor = scene.divisor(whole.value, 5)
        part, times = PARTS[divisor.value]
        scene.tell(
            "(There [are/were] {x} {u} {p}.|{x} {u} [are/were] {p}.|Someone [counts/counted] {x} {u} {p}.)",
            whole,
            **slots,
        )
        scene.tell(
            "({f} of (them|the {u}) [are/were] {o}, and the rest [are/were] {r}.|{F} of the {u} [are/were] {o}; all others [are/were] {r}.|Of these, {f} [are/were] {o} and the others {r}.|There [are/were] {t} as many {u} in total as there [are/were] {o}, and the rest [are/were] {r}.)".replace(
                "({f}", "({F}"
            ),
            divisor,
            f=part,
            F=part.capitalize(),
            t=times,
            **slots,
        )
        first = scene.calc(whole, "/", divisor, "There [are/were] {c} that [are/were] {o}.", **slots)
        scene.ask(
            first, "(How many (of the {u}|{u}) [are/were] {o}?|What is the number of {u} that [are/were] {o}?)", **slots
        )
    else:
        first = scene.pick(2, whole.value - 2)
        scene.tell(
            "(There [are/were] {x} {u} {p}, of which {y} [are/were] {o} and the rest {r}.|Of (the|) {x} {u} {p}, {y} [are/were] {o} and the others [are/were] {r}.|{y} of the {x} {u} {p} [are/were] {o}; the rest [are/were] {r}.|There [are/were] {x} {u} {p}, all {o} or {r}. {y} of them [are/were] {o}.|Among {x} {u} {p}, {y} [are/were] {o}, and all others [are/were] {r}.|{x} {u} [are/were] {p}. Except for {y} that [are/were] {o}, all of them [are/were] {r}.)",
            whole,
            first,
            **slots,
        )
    rest = scene.calc(whole, "-", first, "There [are/were] {c} that [are/were] {r}.", **slots)
    scene.ask(
        rest,
        "(How many (of the {u}|{u}) [are/were] {r}?|What is the number of {u} that [are/were] {r}?|How many [are/were] {r}?)",
        **slots,
    )
    if rest.value > first.value and rng.random() < 0.4:
        gap = scene.calc(rest, "-", first, "There [are/were] {c} more {r} than {o}.", **slots)
        scene.ask(
            gap,
            "(How many more of the {u} [are/were] {r} than {o}?|By how much is the number of {r} ones larger than that of {o} ones?)",
            **slots,
        )
    elif rng.random() < 0.4:
        by = scene.divisor(rest.value, 9)
        scene.tell(
            "(Those that [are/were] {r} [are/were] put into {x} equal groups.|The ones that [are/were] {r} [are/were] split equally into {x} groups.)",
            by,
            **slots,
        )
        scene.ask(
            scene.calc(rest, "/", by, "Each group [has/had] {c}."),
            "(How many [are/were] in each (of these groups|group)?|How large is each group?)",
        )


_LEGS = (
    ("dogs", 4, "legs"),
    ("cows", 4, "legs"),
    ("hens", 2, "legs"),
    ("spiders", 8, "legs"),
    ("ants", 6, "legs"),
    ("bikes", 2, "wheels"),
    ("cars", 4, "wheels"),
    ("tricycles", 3, "wheels"),
    ("ducks", 2, "legs"),
    ("tables", 4, "legs"),
    ("stools", 3, "legs"),
    ("trucks", 6, "wheels"),
    ("wagons", 4, "wheels"),
    ("beetles", 6, "legs"),
)


def legs(scene: Scene) -> None:
    """Legs of animals, wheels of cars; one kind or two."""
    unit = scene.rng.choice(("legs", "wheels"))
    (a, n, _), (b, m, _) = scene.rng.sample([row for row in _LEGS if row[2] == unit], 2)
    place = scene.rng.choice(
        ("in a yard", "in a garage", "at a fair", "in a photo", "in a picture", "in a shed", "on a hill")
    )
    first, second = scene.pick(2, 40), scene.pick(2, 30)
    scene.tell(
        "(There [are/were] {x} {a} {p}, each with {y} {u}.|{x} {a} [are/were] {p}. Each of them has {y} {u}.|{n} [sees/saw] {x} {a} with {y} {u} each {p}.|{p}, {n} [counts/counted] {x} {a}, and each one has {y} {u}.)",
        first,
        Quantity(n),
        a=a,
        p=place,
        u=unit,
    )
    one = scene.calc(first, "*", Quantity(n), f"The {a} have {{c}} {unit}.")
    scene.ask(one, f"(How many {unit} do the {a} have (in total|in all|)?|How many {unit} is that for the {a}?)")
    if scene.rng.random() < 0.65:
        scene.tell(
            "(There [are/were] also {x} {a} with {y} {u} each.|{x} {a} with {y} {u} each [are/were] there too.|Next to them [are/were] {x} {a}, each with {y} {u}.)",
            second,
            Quantity(m),
            a=b,
            u=unit,
        )
        two = scene.calc(second, "*", Quantity(m), f"The {b} have {{c}} {unit}.")
        both = scene.calc(one, "+", two, f"In all there [are/were] {{c}} {unit}.")
        scene.ask(
            both,
            f"(How many {unit} [are/were] there (in total|in all|altogether)?|What is the total number of {unit}?)",
        )


def areas(scene: Scene) -> None:
    """Length, width, area, way around, and the price of a floor or fence."""
    rng = scene.rng
    length, width = scene.pick(3, 45), scene.pick(2, 20)
    what = rng.choice(("garden", "room", "field", "park", "wall", "yard", "floor", "playground", "poster", "carpet"))
    unit = rng.choice(("feet", "meters", "yards"))
    slots = {"w": what, "u": unit}
    scene.tell(
        "(A {w} [is/was] {x} {u} long and {y} {u} wide.|The length of a {w} [is/was] {x} {u} and the width [is/was] {y} {u}.|{n} [has/had] a {w} with a width of {y} {u} and a length of {x} {u}.|{n} [measures/measured] a {w}: {x} {u} by {y} {u}.|A {w} [is/was] {y} {u} wide, and its length [is/was] {x} {u}.)",
        length,
        width,
        **slots,
    )
    if rng.random() < 0.5:
        size = scene.calc(length, "*", width, f"The area [is/was] {{c}} square {unit}.")
        scene.ask(
            size,
            "(What is (the|its) area (in square {u}|)?|How many square {u} is the {w}?|How large is the area of the {w} in square {u}?|Find the area of the {w}.)",
            **slots,
        )
        cost, noun = (
            "(Each square {f} [costs/cost] ${x} to cover.|{S} [pays/paid] ${x} for each square {f}.)",
            "The cover [costs/cost] {c} dollars.",
        )
    else:
        half = scene.calc(length, "+", width, f"Length and width together [are/were] {{c}} {unit}.")
        size = scene.calc(half, "*", Quantity(2), f"Around the {what} it [is/was] {{c}} {unit}.")
        scene.ask(
            size,
            "(What is the perimeter of the {w} (in {u}|)?|How many {u} is it around the {w}?|How long is a (fence|line|border) around the {w} (in {u}|)?)",
            **slots,
        )
        cost, noun = (
            "(A fence goes all around the {w}, and one {f} of it [costs/cost] ${x}.|{S} [wants/wanted] a border around the {w} and [pays/paid] ${x} for each {f} of it.|For each {f} around the {w}, {n} [pays/paid] ${x}.)",
            "The border [costs/cost] {c} dollars.",
        )
    if rng.random() < 0.35:
        price = scene.pick(2, 6)
        scene.tell(cost, price, f={"feet": "foot"}.get(unit, unit[:-1]), w=what)
        scene.ask(
            scene.calc(size, "*", price, noun),
            "(How much does it cost in total?|How many dollars is that in all?|What is the total price?)",
        )


FAMILIES = (trip, parts, legs, areas)
WEIGHTS = (5, 6, 3, 4)
