# ruff: noqa: E501  (tables of text: one entry a line)
"""Scenes of two to four subjects whose numbers depend on each other: more, fewer, times as many, a part of."""

from __future__ import annotations

from ds4bench.embedded.training.data import scene_words
from ds4bench.embedded.training.data.scene_builder import Quantity, Scene, UnfitError

PARTS = {
    2: ("half", "twice"),
    3: ("a third", "three times"),
    4: ("a quarter", "four times"),
    5: ("a fifth", "five times"),
}
_ENDS = ("together", "altogether", "in total", "in all")
# verb with tenses, its base form, unit
_DEEDS = (
    ("[has/had]", "have", "{things}"), ("[has/had]", "have", "{things}"), ("[owns/owned]", "own", "{things}"), ("[buys/bought]", "buy", "{things}"), ("[sells/sold]", "sell", "{things}"), ("[makes/made]", "make", "{things}"), ("[collects/collected]", "collect", "{things}"),
    ("[gets/got]", "get", "{things}"), ("[orders/ordered]", "order", "{things}"), ("[counts/counted]", "count", "{things}"), ("[brings/brought]", "bring", "{things}"), ("[finds/found]", "find", "{things}"), ("[carries/carried]", "carry", "{things}"), ("[needs/needed]", "need", "{things}"),
    ("[reads/read]", "read", "pages"), ("[runs/ran]", "run", "miles"), ("[scores/scored]", "score", "points"), ("[earns/earned]", "earn", "dollars"), ("[saves/saved]", "save", "dollars"), ("[walks/walked]", "walk", "miles"), ("[solves/solved]", "solve", "problems"),
    ("[studies/studied]", "study", "hours"), ("[drinks/drank]", "drink", "cups of water"), ("[writes/wrote]", "write", "letters"), ("[catches/caught]", "catch", "fish"), ("[does/did]", "do", "push-ups"), ("[swims/swam]", "swim", "laps"), ("[washes/washed]", "wash", "cars"),
    ("[types/typed]", "type", "words"), ("[builds/built]", "build", "chairs"), ("[spends/spent]", "spend", "dollars"), ("[plays/played]", "play", "games"), ("[sends/sent]", "send", "messages"), ("[wins/won]", "win", "prizes"), ("[plants/planted]", "plant", "trees"), ("[feeds/fed]", "feed", "animals"), ("[works/worked]", "work", "hours"),
)  # fmt: skip
_BASE = ("{A} V {x} U.", "{x} U [is/was] what {A} V.", "The number of U {A} V [is/was] {x}.", "{A} V {x} U (today|this month|in one week|in May).", "We know that {A} V {x} U.", "{A} V exactly {x} U.", "{A} V a total of {x} U.", "(Today|This week|This month), {A} V {x} U.")  # fmt: skip
_MORE = (
    "{A} V {x} more U than {B}(| [does/did]).", "{A} V {x} more U than {B}.", "{B} V {x} fewer U than {A}.", "Compared (with|to) {B}, {A} V {x} more U.", "{A} V as many U as {B} and {x} more.", "{A} V {x} more than {B}.", "{A} V {x} U more than {B}.", "{A} V the same number of U as {B} plus {x} more.",
    "{B} V {x} less than {A}.", "The number of U {A} V [is/was] {x} more than {B}'s number.",
)  # fmt: skip
_LESS = (
    "{A} V {x} fewer U than {B}(| [does/did]).", "{A} V {x} fewer U than {B}.", "{B} V {x} more U than {A}.", "Compared (with|to) {B}, {A} V {x} fewer U.", "{A} V {x} less than {B}.", "{B} V as many U as {A} and {x} more.", "{A} V {x} U fewer than {B}.", "{B} V {x} more than {A}.",
    "The number of U {A} V [is/was] {x} less than {B}'s number.", "{A} V {x} fewer than {B}.",
)  # fmt: skip
_TIMES = (
    "{A} V {t} as many U as {B}(| [does/did]).", "{A} V {t} as many U as {B}.", "{A} V {t} the number of U that {B} V.", "Compared (with|to) {B}, {A} V {t} as many U.", "{A} V {t} as many as {B}.", "The number of U {A} V [is/was] {t} {B}'s number.",
    "{A} V {t} as many U as {B} V.",
)  # fmt: skip
_PART = (
    "{A} V {p} as many U as {B}.", "{A} V {p} as many as {B}.", "{A} V {p} of the number of U that {B} V.", "{B} V {t} as many U as {A}.", "{B} V {t} as many as {A}.", "Compared (with|to) {B}, {A} V only {p} as many U.", "{A} V only {p} as many U as {B} [does/did].", "The number of U {A} V [is/was] {p} of {B}'s number.",
)  # fmt: skip
# base, more, less, times (t or p), question, total, difference, step; subjects are things or persons
_MEASURES = {
    "cost": ("({A} [costs/cost] ${x}.|The price of {A} [is/was] ${x}.|For {A} one [pays/paid] ${x}.|${x} [is/was] the price of {A}.)", "({A} [costs/cost] ${x} more than {B}.|{B} [costs/cost] ${x} less than {A}.|{A} [is/was] ${x} more expensive than {B}.|The price of {A} [is/was] ${x} above that of {B}.)",
             "({A} [costs/cost] ${x} less than {B}.|{B} [costs/cost] ${x} more than {A}.|{A} [is/was] ${x} cheaper than {B}.|The price of {A} [is/was] ${x} below that of {B}.)", "({A} [costs/cost] {t} as much as {B}.|The price of {A} [is/was] {t} that of {B}.|For {A} one [pays/paid] {t} as much as for {B}.)",
             "(How much [does/did] {A} cost?|What [is/was] the price of {A} in dollars?|How many dollars [does/did] {A} cost?)", "(How much [do/did] {L} cost {e}?|What [is/was] the total price of {L}?)", "How much more [does/did] {A} cost than {B}?", "{A} [costs/cost] {c} dollars."),
    "length": ("({A} [is/was] {x} (feet|meters) long.|The length of {A} [is/was] {x}.)", "({A} [is/was] {x} longer than {B}.|{B} [is/was] {x} shorter than {A}.)", "({A} [is/was] {x} shorter than {B}.|{B} [is/was] {x} longer than {A}.)", "({A} [is/was] {t} as long as {B}.|The length of {A} [is/was] {t} that of {B}.)",
               "(How long [is/was] {A}?|What [is/was] the length of {A}?)", "(How long [are/were] {L} {e}?|What [is/was] the total length of {L}?)", "How much longer [is/was] {A} than {B}?", "The length of {A} [is/was] {c}."),
    "weight": ("({A} [weighs/weighed] {x} pounds.|The weight of {A} [is/was] {x} pounds.)", "({A} [weighs/weighed] {x} pounds more than {B}.|{A} [is/was] {x} pounds heavier than {B}.|{B} [is/was] {x} pounds lighter than {A}.)", "({A} [weighs/weighed] {x} pounds less than {B}.|{A} [is/was] {x} pounds lighter than {B}.|{B} [is/was] {x} pounds heavier than {A}.)",
               "({A} [weighs/weighed] {t} as much as {B}.|{A} [is/was] {t} as heavy as {B}.|The weight of {A} [is/was] {t} that of {B}.)", "(How much [does/did] {A} weigh?|How many pounds [does/did] {A} weigh?|What [is/was] the weight of {A} in pounds?)", "(How many pounds [do/did] {L} weigh {e}?|What [is/was] the total weight of {L}?)", "How many more pounds [does/did] {A} weigh than {B}?", "{A} [weighs/weighed] {c} pounds."),
    "age": ("({A} is {x} years old.|{A} is {x}.|{A}'s age is {x}.|{A} turned {x} this year.)", "({A} is {x} years older than {B}.|{B} is {x} years younger than {A}.|{A} was born {x} years before {B}.)", "({A} is {x} years younger than {B}.|{B} is {x} years older than {A}.|{A} was born {x} years after {B}.)", "({A} is {t} as old as {B}.|{A}'s age is {t} {B}'s age.)",
            "(How old is {A}?|What is {A}'s age?|How many years old is {A}?)", "(What is the sum of the ages of {L}?|How old are {L} {e}?|Find the sum of the ages of {L}.)", "How many years older is {A} than {B}?", "{A} is {c} years old."),
}  # fmt: skip
_TALL = ("({A} is {x} inches tall.|{A}'s height is {x} inches.)", "({A} is {x} inches taller than {B}.|{B} is {x} inches shorter than {A}.)", "({A} is {x} inches shorter than {B}.|{B} is {x} inches taller than {A}.)", "({A} is {t} as tall as {B}.|{A}'s height is {t} {B}'s height.)",
         "(How tall is {A}?|How many inches tall is {A}?)", "What is the sum of the heights of {L}?", "How many inches taller is {A} than {B}?", "{A} is {c} inches tall.")  # fmt: skip
_ROPES = (
    "the red rope,the blue rope,the white rope,the green rope",
    "the first road,the second road,the third road,the old road",
    "the bridge,the wall,the fence,the street",
    "the kitchen table,the bench,the shelf,the bed",
)
_LOADS = (
    "the dog,the cat,the goat,the pig",
    "the red bag,the black bag,the box,the suitcase",
    "the stone,the chair,the bucket,the drum",
)


def deeds(scene: Scene) -> None:
    """Persons who have or do so many each."""
    verb, base, unit = scene.rng.choice(_DEEDS)

    def fit(text: str) -> str:
        return text.replace(" V", f" {verb}").replace("U", unit)

    names = [person.name for person in scene.people]
    texts = {"=": _BASE, "+": _MORE, "-": _LESS, "*": _TIMES, "/": _PART}
    step = fit("{A} V {c} U.")
    chosen = {op: tuple(fit(text) for text in table) for op, table in texts.items()}
    asks = (
        fit(
            f"(How many U [does/did] {{A}} {base}?|What [is/was] the number of U {{A}} V?|Find the number of U that {{A}} V.)"
        ),
        fit(f"(How many U [do/did] {{L}} {base} {{e}}?|What [is/was] the total number of U for {{L}}?)"),
        fit(
            f"(How many more U [does/did] {{A}} {base} than {{B}}?|What [is/was] the difference between {{A}}'s and {{B}}'s number of U?)"
        ),
    )
    low, high = scene.rng.choice(((2, 12), (4, 40), (20, 120)))
    total = _chain(
        scene,
        names,
        chosen,
        step,
        asks,
        (low, high),
        fit("{L} {v} {c} U {e}.").replace("{v}", f"[{base}/{verb.split('/')[1][:-1]}]"),
    )
    if total is not None and "{things}" in unit and scene.rng.random() < 0.5:
        _money(scene, total, names[:2])


def _money(scene: Scene, total: Quantity, names: list[str]) -> None:
    price = scene.pick(2, 9)
    pair = " and ".join(names)
    scene.tell(
        "(Each {thing} [is/was] sold for ${x}.|They [sell/sold] all their {things} for ${x} each.|One {thing} [is/was] worth ${x}.)",
        price,
    )
    money = scene.calc(total, "*", price, "The {things} [are/were] worth {c} dollars.")
    scene.ask(money, f"How much money [are/were] the {{things}} of {pair} worth (together|in total)?")


def measures(scene: Scene) -> None:
    """Things or persons that are compared by cost, length, weight, age or height."""
    rng = scene.rng
    kind = rng.choice(("cost", "cost", "length", "weight", "age", "age", "tall"))
    base, more, less, times, ask, total, difference, step = _TALL if kind == "tall" else _MEASURES[kind]
    if kind in ("age", "tall"):
        names = [person.name for person in scene.people]
    elif kind == "cost":
        nouns = rng.sample([noun for theme in scene_words.THEMES[2:] for noun in theme.nouns], 4)
        names = [f"the {noun}" for noun in nouns]
    else:
        names = rng.sample(rng.choice(_ROPES if kind == "length" else _LOADS).split(","), 4)
    part = times.replace("{t}", "{p}") if kind != "age" else "({A} is {p} as old as {B}.|{B} is {t} as old as {A}.)"
    if kind == "length":
        unit = rng.choice(("feet", "meters", "yards"))
        base, more, less = (
            t.replace("(feet|meters)", unit)
            .replace("{x} ", f"{{x}} {unit} ")
            .replace(f"{unit} {unit}", unit)
            .replace("{x}.", f"{{x}} {unit}.")
            for t in (base, more, less)
        )
        step, ask, difference = (
            t.replace("{c}", f"{{c}} {unit}")
            .replace("How long", f"How many {unit} long")
            .replace("How much longer", f"How many {unit} longer")
            for t in (step, ask, difference)
        )
    tables: dict[str, tuple[str, ...]] = {"=": (base,), "+": (more,), "-": (less,), "*": (times,), "/": (part,)}
    said = {
        "cost": "{L} [cost/cost] {c} dollars {e}.",
        "weight": "{L} [weigh/weighed] {c} pounds {e}.",
        "age": "The sum of the ages is {c}.",
        "tall": "The sum of the heights is {c}.",
        "length": "The total length is {c}.",
    }
    span = {"cost": (2, 80), "age": (6, 40), "tall": (20, 70)}.get(kind, (4, 90))
    _chain(scene, names, tables, step, (ask, total, difference), span, said[kind])
    if kind in ("age", "tall") and any(a.text == ask and a.target.value > 95 for a in scene.asks):
        raise UnfitError
    if kind == "age":
        _later(scene, names)


def _later(scene: Scene, names: list[str]) -> None:
    """Ages in some years or some years ago."""
    years, target = scene.pick(2, 12), scene.asks[0].target
    name = names[0] if scene.asks[0].slots.get("A") is None else scene.asks[0].slots["A"]
    if scene.rng.random() < 0.6:
        after = scene.calc(
            target, "+", years, "(In|After) {k} years {A} will be {c} years old.", A=name, k=str(years.value)
        )
        scene.ask(
            after,
            "(How old will {A} be in {k} years?|In {k} years, how old will {A} be?|What will {A}'s age be {k} years from now?|How old will {A} be {k} years later?)",
            A=name,
            k=str(years.value),
        )
    else:
        ago = scene.calc(target, "-", years, "{k} years ago {A} was {c} years old.", A=name, k=str(years.value))
        scene.ask(
            ago,
            "(How old was {A} {k} years ago?|{k} years ago, how old was {A}?|What was {A}'s age {k} years ago?)",
            A=name,
            k=str(years.value),
        )


def _chain(
    scene: Scene,
    names: list[str],
    texts: dict[str, tuple[str, ...]],
    step: str,
    asks: tuple[str, str, str],
    span: tuple[int, int],
    total: str,
) -> Quantity | None:
    """Subject by subject: the first is given, each other one depends on one before. Returns the first two's total."""
    rng = scene.rng
    scene.loose = True
    values = [scene.pick(*span)]
    scene.tell(rng.choice(texts["="]), values[0], kind="extra", A=names[0])
    for i in range(1, rng.choice((2, 2, 3, 3, 4))):
        j = i - 1 if rng.random() < 0.7 else 0
        values.append(_related(scene, texts, step, (names[i], names[j]), values[j]))
    for i in range(len(values) - 1, 0, -1):
        scene.ask(values[i], asks[0], A=names[i])
    first = _sums(scene, names, values, asks, total)
    for i in range(1, len(values)):
        for j in range(i):
            big, small = (i, j) if values[i].value > values[j].value else (j, i)
            if values[big].value - values[small].value > 0 and _worth(scene, values, big, small):
                gap = scene.calc(values[big], "-", values[small], "The difference [is/was] {c}.")
                scene.ask(gap, asks[2], A=names[big], B=names[small])
    return first


def _worth(scene: Scene, values: list[Quantity], big: int, small: int) -> bool:
    """Whether the difference is not simply one that the text tells."""
    for one, other in ((big, small), (small, big)):
        if values[one] in values[other].parents:
            told = values[other].value in (
                values[one].value + f.value * sign for f in values[other].parents for sign in (1, -1)
            )
            return not told and scene.rng.random() < 0.6
    return True


def _sums(scene: Scene, names: list[str], values: list[Quantity], asks: tuple[str, str, str], total: str) -> Quantity:
    end = scene.rng.choice(_ENDS)
    pair = scene.calc(values[0], "+", values[1], total, L=f"{names[0]} and {names[1]}", e=end)
    scene.ask(pair, asks[1], L=f"{names[0]} and {names[1]}", e=end)
    if len(values) > 2:
        if scene.rng.random() < 0.4:
            late = scene.calc(values[1], "+", values[2], total, L=f"{names[1]} and {names[2]}", e=end)
            scene.ask(late, asks[1], L=f"{names[1]} and {names[2]}", e=end)
        three = f"{names[0]}, {names[1]} and {names[2]}"
        every = scene.calc(pair, "+", values[2], total, L=three, e=end)
        scene.ask(every, asks[1], L=three if len(values) > 3 or scene.rng.random() < 0.6 else "all three", e=end)
    return pair


def _related(
    scene: Scene, texts: dict[str, tuple[str, ...]], step: str, pair: tuple[str, str], other: Quantity
) -> Quantity:
    op = scene.rng.choice("+++--***//")
    if op == "/":
        fitting = [d for d in PARTS if other.value % d == 0 and other.value > d]
        if not fitting:
            op = "*"
        else:
            factor = Quantity(scene.rng.choice(fitting))
    if op == "*":
        factor = scene.pick(2, 6)
    elif op in "+-":
        factor = scene.pick(2, min(60, other.value - 1) if op == "-" else 60) if other.value > 3 else Quantity(2)
    made = scene.calc(other, op, factor, step, A=pair[0])
    part, times = PARTS.get(factor.value, ("", ""))
    times = times if op in "*/" and times and scene.rng.random() < 0.7 else f"{factor.value} times"
    scene.tell(scene.rng.choice(texts[op]), factor, kind="extra", A=pair[0], B=pair[1], t=times, p=part)
    return made
