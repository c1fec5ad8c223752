# ruff: noqa: E501  (tables of text: one entry a line)
"""Texts of the composed word problems (``scenes``), in a small grammar.

``(a|b|c)`` is a choice, which may nest and be empty; ``[buys/bought]`` follows the scene's tense; ``{slot}`` is filled
at the end. ``{S}`` and ``{s}`` are the fact's person at the start and inside of a sentence: the name or a pronoun.
``GAIN`` and ``LOSE`` are verbs of the theme that the things belong to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Things that are got and lost in the same ways."""

    nouns: tuple[str, ...]
    gain: str
    lose: str


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeo":
        return noun[:-1] + "ies"
    return noun + "s"


def _nouns(text: str) -> tuple[str, ...]:
    return tuple(noun.strip() for noun in text.split(","))


THEMES = (
    Theme(_nouns("apple,pear,plum,lemon,orange,peach,melon,banana,cherry,carrot,onion,strawberry,mushroom,fig,lime,olive,nut,pumpkin,red apple,green pear"),
          "([picks/picked]|[buys/bought]|[gathers/gathered]|[collects/collected]|[harvests/harvested])", "([eats/ate]|[sells/sold]|[uses/used]|[gives away/gave away])"),
    Theme(_nouns("cookie,cake,pie,muffin,bun,pancake,pastry,roll,sandwich,waffle,cupcake,pretzel,donut,bagel,tart,biscuit"),
          "([bakes/baked]|[makes/made]|[buys/bought]|[prepares/prepared])", "([eats/ate]|[sells/sold]|[serves/served]|[gives away/gave away])"),
    Theme(_nouns("stamp,coin,marble,sticker,card,shell,badge,bead,button,stone,feather,poster,magnet,comic,toy car,model plane,puzzle,crystal,action figure,key ring"),
          "([collects/collected]|[finds/found]|[buys/bought]|[gets/got]|[wins/won])", "([loses/lost]|[sells/sold]|[trades away/traded away]|[gives away/gave away])"),
    Theme(_nouns("pencil,pen,notebook,eraser,ruler,crayon,folder,marker,paper clip,envelope,brush,sheet,label,book,magazine,letter,map,calendar,binder,glue stick"),
          "([buys/bought]|[gets/got]|[orders/ordered]|[receives/received])", "([uses/used]|[loses/lost]|[breaks/broke]|[hands out/handed out]|[donates/donated])"),
    Theme(_nouns("rose,flower,tulip,tree,lily,bush,seed,plant,daisy,cactus,fern,herb,sunflower"),
          "([plants/planted]|[buys/bought]|[grows/grew]|[orders/ordered])", "([sells/sold]|[gives away/gave away]|[loses/lost]|[removes/removed])"),
    Theme(_nouns("hat,shirt,scarf,sock,glove,bag,belt,ribbon,candle,basket,bracelet,necklace,blanket,quilt,mug,bowl,vase,kite,doll,lamp,clock,birdhouse,spoon,toy"),
          "([makes/made]|[finishes/finished]|[buys/bought]|[gets/got]|[produces/produced])", "([sells/sold]|[gives away/gave away]|[donates/donated]|[ruins/ruined]|[ships/shipped])"),
)  # fmt: skip
BOXES = _nouns(
    "box,bag,basket,jar,tray,shelf,row,pack,crate,drawer,packet,carton,bundle,bucket,tin,case,pile,stack,bowl,sack,set,tub,album,cabinet"
)
SHELVES = {"shelf": "shelves"}
PEOPLE = _nouns(
    "friends,children,students,classmates,neighbors,cousins,teachers,players,guests,kids,workers,helpers,visitors,team members"
)
COLORS = _nouns("red,blue,green,white,black,yellow,large,small,old,new,round,square,broken,plain,striped,wooden")
KIN = _nouns("mother,father,sister,brother,aunt,uncle,grandmother,grandfather,neighbor,teacher,best friend,cousin,boss")
TIMES = (
    ("on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday"), ("in the morning", "at noon", "in the afternoon", "in the evening", "at night"),
    ("yesterday", "today", "later", "after that", "after dinner"), ("in January", "in March", "in May", "in July", "in October"), ("at first", "then", "after that", "later", "in the end"),
    ("before lunch", "after lunch", "after school", "before dinner", "after dinner"), ("last week", "a day later", "two days later", "the next day", "after the weekend"),
    ("on Saturday", "on Sunday", "the next day", "a week later", "some time later"),
)  # fmt: skip
TIMES_NOW = tuple(times for times in TIMES if times[0] not in ("yesterday", "last week"))

# Who holds how many: sources, gains, losses. The amount is {x}; a product's second factor is {y}.
OWN = (
    "{S} [has/had] {x} {things}.", "{S} [owns/owned] {x} {things}.", "{S} [keeps/kept] {x} {things} (at home|in a {box}|in the kitchen|in {his} room|on a table).",
    "{S} [starts/started] (the day|the week|out|) with {x} {things}.", "{S} GAIN {x} {things}.", "There [are/were] {x} {things} in {n}'s {box}.",
    "{S} [has/had] a {box} (with|of|that [holds/held]) {x} {things} (in it|).", "{S} [has/had] a collection of {x} {things}.", "{n}'s {box} [holds/held] {x} {things}.",
    "{S} [is/was] given {x} {things} (by {his} {kin}|as a present|for {his} birthday).", "{S} [counts/counted] {x} {things} in {his} {box}.",
    "{n}'s {kin} GAIN {x} {things} and [gives/gave] (all of them|them all) to {n}.", "{x} {things} [belong/belonged] to {n}.", "{S} [brings/brought] {x} {things} to (school|work|the market|a party).",
    "The number of {things} that {n} [has/had] [is/was] {x}.", "{S} [receives/received] {x} {things} from {his} {kin}.",
)  # fmt: skip
GROUPS = (
    "{S} [has/had] {x} {boxes} of {things}(, with| with|, and there [are/were]) {y} {things} in each {box}.", "{S} [has/had] {x} {boxes}. Each {box} (has|holds|contains) {y} {things}.",
    "{S} GAIN {x} {boxes} (with|of) {y} {things} (each|in each|in every {box}).", "There [are/were] {y} {things} in each of {n}'s {x} {boxes}.",
    "Each of {n}'s {x} {boxes} [holds/held] {y} {things}.", "{S} [puts/put] {y} {things} (in|into) each of {x} {boxes}, which [are/were] empty before.",
    "{S} [fills/filled] {x} empty {boxes} with {y} {things} each.", "A {box} holds {y} {things}, and {n} [has/had] {x} (full {boxes}|such {boxes}|of these {boxes}).",
    "{S} [arranges/arranged] {his} {things} in {x} {boxes} of {y}.", "{S} [has/had] {x} {boxes} that each [hold/held] {y} {things}.", "{n}'s {things} [are/were] in {x} {boxes}, {y} in each {box}.",
    "{S} [gets/got] {y} {things} from each of {x} {people}.", "{x} {people} each [give/gave] {n} {y} {things}.",
)  # fmt: skip
RATES = (
    "{S} GAIN {x} {things} (a day|every day|each day|per day) for {y} days.", "(Every|Each) (day|evening|morning) for {y} days, {n} GAIN {x} {things}.", "{S} GAIN {x} {things} (an hour|every hour|each hour|per hour) for {y} hours.",
    "For {y} weeks, {n} GAIN {x} {things} (a week|each week|every week).", "{S} GAIN {x} {things} on each of {y} days.", "In one (day|week|month), {n} GAIN {x} {things}, and {s} [does/did] this {y} times.",
    "{n}'s {kin} [gives/gave] {him} {x} {things} (a week|every week) for {y} weeks.", "{S} [works/worked] for {y} hours and GAIN {x} {things} (in each hour|per hour|each hour).", "Over {y} days, {n} GAIN {x} {things} each day.",
    "{S} GAIN {x} {things} (per|each|a) month and [does/did] so for {y} months.",
)  # fmt: skip
KINDS = (
    "{S} [has/had] {x} {color} {things} and {y} {shade} {things}.", "{n}'s {box} [holds/held] {x} {color} and {y} {shade} {things}.", "{S} GAIN {x} {color} {things} and {y} {shade} (ones|{things}).",
    "There [are/were] {x} {color} {things} in {n}'s {box}, along with {y} {shade} (ones|{things}).", "Besides {y} {shade} {things}, {n} [has/had] {x} {color} ones.", "{S} GAIN {x} {things} on (Monday|Saturday) and {y} (more|) on Sunday.",
    "{S} GAIN {x} {things} (in the morning|before lunch) and {y} {things} (in the evening|after lunch).", "{n}'s {kin} [gives/gave] {him} {x} {things}, and {M} [gives/gave] {him} {y}.", "After (buying|getting|finding) {x} {color} {things}, {n} [gets/got] {y} {shade} ones (too|as well).",
    "{S} [has/had] two {boxes} of {things}: one with {x} and (one|the other) with {y}.", "{S} [takes/took] {x} {things} from one {box} and {y} from another.",
)  # fmt: skip
GAINS = (
    "{S} GAIN {x} more (|{things}).", "{S} GAIN another {x} (|{things}).", "{M} [gives/gave] {n} {x} (more|more {things}|{things}).", "{S} [gets/got] {x} (more|more {things}|{things}) from ({M}|{his} {kin}).",
    "{S} [receives/received] {x} {things} (as a gift|from {M}|by mail|in the mail).", "{n}'s {kin} [brings/brought] {him} {x} (more|more {things}|{things}).", "{S} [adds/added] {x} (more|{things}|new {things}) (to {his} collection|to the {things}|).",
    "{x} more {things} [are/were] (given to|sent to|brought to) {n}.", "{S} [wins/won] {x} {things} in a game.", "{S} [finds/found] {x} {things} in (an old {box}|the garage|a drawer).", "{S} [is/was] given {x} (more|more {things}|{things}) by ({M}|{his} {kin}).",
    "{M} [hands/handed] {x} of {M}'s {things} over to {n}.", "{M} [sells/sold] {n} {x} {things}.", "{S} [borrows/borrowed] {x} {things} from {M}.",
)  # fmt: skip
GAIN_GROUPS = (
    "{S} GAIN {x} (more|) {boxes} (of|with) {y} {things} (each|in each).", "{x} {people} each [give/gave] {n} {y} (more|more {things}|{things}).", "{S} [gets/got] {y} {things} from each of {his} {x} {people}.",
    "{M} [brings/brought] {n} {x} {boxes} with {y} {things} in each {box}.", "{S} also [gets/got] {x} {boxes}, each (with|holding|containing) {y} {things}.", "{S} GAIN {y} {things} a day for {x} days (more|after that).",
)  # fmt: skip
LOSSES = (
    "{S} LOSE {x} (|{things}|of them|of the {things}).", "{S} [gives/gave] {x} (of them|{things}|of the {things}) to ({M}|{his} {kin}|a friend).", "{M} [takes/took] {x} (of them|{things}|of {n}'s {things}).", "{S} [gives/gave] {M} {x} (|{things}|of them).",
    "{x} of ({n}'s|the) {things} [are/were] (lost|broken|sold|thrown away|given away|stolen).", "{S} [leaves/left] {x} {things} (at school|on the bus|with {M}).", "{S} [sends/sent] {x} {things} to ({M}|{his} {kin}).", "{S} [throws/threw] away {x} (of them|{things}|bad {things}).",
    "{S} [lends/lent] {M} {x} (|{things}|of them).", "{S} [has/had] to give {x} of them back (to {M}|).", "{M} [asks/asked] for {x} {things}, and {n} [hands/handed] them over.", "{n}'s {kin} [takes/took] {x} of them (away|).", "{S} [drops/dropped] {x} {things} and [leaves/left] them there.",
)  # fmt: skip
LOSE_GROUPS = (
    "{S} [gives/gave] {y} (of them|{things}) to each of {his} {x} {people}.", "{S} [gives/gave] {x} {people} {y} {things} each.", "Each of {x} {people} [gets/got] {y} {things} from {n}.", "{x} {people} each [take/took] {y} of {n}'s {things}.",
    "{S} [sells/sold] {x} {boxes} (of|with) {y} {things} (each|in each).", "{S} LOSE {y} {things} (a day|each day|every day) for {x} days.",
)  # fmt: skip
LOSE_PART = (
    "{S} [gives/gave] {part} of (them|the {things}|{his} {things}) to {M}.", "{S} LOSE {part} of (them|the {things}).", "{Part} of {n}'s {things} [are/were] (lost|broken|sold|given away).", "{M} [takes/took] {part} of (them|{n}'s {things}).",
    "{S} [leaves/left] {part} of them with {M}.", "{Part} of them [go/went] to {M}.", "{S} [sells/sold] {part} of (them|what {s} [has/had]).",
)  # fmt: skip
BEFORE = (  # a start and a loss in one sentence, turned around
    "Before {s} [gives/gave] {y} {things} to {M}, {n} [has/had] {x}.", "{n} LOSE {y} of the {x} {things} that {s} [has/had].", "Of {n}'s {x} {things}, {y} [are/were] (lost|broken|given to {M}|sold).", "{n} [gives/gave] {M} {y} of {his} {x} {things}.",
    "Out of {x} {things}, {n} [gives/gave] {y} to {M}.", "{n} [has/had] {x} {things} until {M} [takes/took] {y} of them.", "{M} [gets/got] {y} of the {x} {things} that {n} [has/had].", "{n} [has/had] {x} {things}, {y} of which {s} [gives/gave] to {M}.",
    "From a {box} of {x} {things}, {n} [takes/took] out {y} and [throws/threw] them away.",
)  # fmt: skip
STATE = (
    "How many {things} [does/did] {s} have (in the end|then)?", "How many {things} does {s} have now?", "What is the number of {things} {s} [has/had] (in the end|after that)?", "How many {things} [are/were] there (in the end|after this)?",
    "Find the number of {things} that {n} (now has|has now).", "In the end, how many {things} [does/did] {s} have?", "How many {things} (does that make for {n}|is that for {n})?",
    "After (this|all this|that), how many {things} [does/did] {s} have?",
)  # fmt: skip
LEFT = (
    "How many {things} [does/did] {s} have left?", "How many {things} [are/were] left?", "How many {things} (remain|are remaining) (for {n}|)?", "How many {things} does {s} still have?", "What number of {things} [is/was] left?",
    "How many {things} [stay/stayed] with {n}?", "Find how many {things} {s} [has/had] left.",
)  # fmt: skip
TOTAL = (
    "How many {things} [does/did] {s} have (in total|altogether|in all)?", "What is the total number of {things} {s} [has/had]?", "How many {things} is that (in total|altogether|in all)?",
    "In total, how many {things} [does/did] {s} have?", "How many {things} [are/were] there (in total|altogether|in all)?", "Find the total number of {things}.",
)  # fmt: skip

# What is done with the things.
SHARE = (
    ("{S} [shares/shared] (them|all the {things}) (equally|evenly) (among|between) {x} {people}.", "How many {things} [does/did] each (one|of them) get?"), ("{S} [divides/divided] (them|the {things}) (equally|evenly) among {x} {people}.", "How many {things} [does/did] each (one|person) (get|receive)?"),
    ("{S} [puts/put] (them|the {things}) (equally|evenly) into {x} {crates}.", "How many {things} [are/were] (in each {crate}|in one {crate})?"), ("{x} {people} [split/split] ({n}'s {things}|them|the {things}) (equally|evenly).", "How many {things} [does/did] each (one|person) get?"),
    ("(They|The {things}) [are/were] (split|divided) (equally|evenly) into {x} {crates}.", "How many {things} [does/did] each {crate} (hold|have|contain)?"), ("{S} [gives/gave] all of them to {x} {people}, the same number to each.", "How many {things} [does/did] each one get?"),
    ("{S} [makes/made] {x} equal {crates} out of them.", "How many {things} [are/were] in (one|each) {crate}?"), ("{S} [wants/wanted] to use them up in {x} days, the same number each day.", "How many {things} should {s} use (each|per|a) day?"),
)  # fmt: skip
PACK = (
    ("{S} [packs/packed] them (in|into) {crates} of {x}.", "How many {crates} [does/did] {s} (need|fill|have)?"), ("{S} [puts/put] {x} {things} (in|into) each {crate}.", "How many {crates} [does/did] {s} (need|use|fill)?"), ("Each {crate} holds {x} {things}.", "How many {crates} [does/did] {s} need for (them|the {things}|all of them)?"),
    ("{S} [gives/gave] {x} {things} to each of {his} {people}.", "How many {people} [get/got] {things}?"), ("{S} [uses/used] {x} {things} (a day|every day|each day).", "(For how many days|How many days) will the {things} last?"), ("(They|The {things}) [are/were] sorted into {crates} with {x} in each.", "How many {crates} [are/were] there?"),
)  # fmt: skip
SELL = (
    ("{S} [sells/sold] (them|all of them|the {things}) for ${x} each.", "How much money [does/did] {s} (make|get|earn)?"), ("{S} [sells/sold] (all|all of the|the) {things} at ${x} (each|apiece|a piece).", "How many dollars [does/did] {s} (earn|get|make)?"), ("Each {thing} [is/was] sold for ${x}.", "How much (money|) [is/was] made (in total|in all|)?"),
    ("A {thing} [is/was] worth ${x}.", "How much (money|) [are/were] {n}'s {things} worth (in total|)?"), ("The price of (one|a) {thing} [is/was] ${x}, and {s} [sells/sold] (every one|all of them).", "How much money [does/did] {s} (take in|get|make)?"), ("For every {thing}, {n} [is/was] paid ${x}.", "How much [does/did] {s} earn?"),
)  # fmt: skip
GOAL = (
    ("{S} [wants/wanted] to have {x} {things}.", "How many more {things} [does/did] {s} need?"), ("{n}'s goal [is/was] {x} {things}.", "How many (more|more {things}) [does/did] {s} (still need|need) to reach {his} goal?"), ("{S} [needs/needed] {x} {things} (in all|in total|for a party|for school).", "How many {things} [are/were] still missing?"),
    ("An order [asks/asked] for {x} {things}.", "How many {things} [does/did] {s} still have to get?"), ("{S} [plans/planned] to get {x} {things}.", "How many more {things} must {s} get?"), ("{n}'s {crate} has room for {x} {things}.", "How many more {things} (fit in|can {s} put in it)?"),
)  # fmt: skip
OTHER_HAS = (
    "{M} [has/had] {x} {things}.",
    "{M} [owns/owned] {x} {things}.",
    "There [are/were] {x} {things} in {M}'s {crate}.",
    "{M}, a friend, [has/had] {x} {things}.",
    "{M} [counts/counted] {x} {things} at home.",
    "As for {M}, there [are/were] {x} {things} in {M}'s room.",
)
ASIDES = (
    "{M} is {x} years old.", "{n} lives {x} miles from (school|town|the station).", "It [takes/took] {n} {x} minutes to get (home|there|to work).", "{n} has {x} (cats|dogs|fish|cousins|brothers) at home.", "The (shop|market) is open for {x} hours.", "{M} [has/had] {x} {stuff}.", "The street has {x} houses.",
    "{n} also [owns/owned] {x} {stuff}.", "{n} [is/was] {x} years old.", "The weather [is/was] nice, and it [is/was] {x} degrees outside.", "The bus to town costs ${x}.", "{n} [works/worked] in room {x}.", "{n} has known {M} for {x} years.", "There [are/were] {x} {stuff} on the table.",
)  # fmt: skip
