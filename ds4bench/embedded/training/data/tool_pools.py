# ruff: noqa: E501  (tables of text: one entry a line)
"""Words of the tool dialogues: one pool to train on, another for the held-out battery. They share no tool and no wording."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ds4bench.embedded.tokenizer import ASSET
from ds4bench.embedded.training.data import tool_wordings


@dataclass(frozen=True)
class Pools:
    """``actions``: verbs that change something; ``lookups``: verbs that answer with a value; ``requests``: wordings."""

    actions: tuple[str, ...]
    lookups: tuple[str, ...]
    nouns: tuple[str, ...]
    requests: tuple[str, ...]
    pairs: tuple[str, ...]
    chains: tuple[str, ...]
    systems: tuple[str, ...]
    people: tuple[str, ...]
    places: tuple[str, ...]
    texts: tuple[str, ...]
    errors: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    values: tuple[str, ...]
    invented: float = 0.0  # share of words that are made up: what is copied must not be what is known

    def pick(self, rng: random.Random, options: Sequence[str]) -> str:
        """One of the options, or a made-up word."""
        return invent(rng) if rng.random() < self.invented else rng.choice(options)

    def vary(self, rng: random.Random, options: Sequence[str], share: float | None = None) -> str:
        """As ``pick``, with a share of its own if given; the pool of the held-out battery only ever draws an option."""
        share = self.invented if share is None else share
        return invent(rng) if self.invented and rng.random() < share else rng.choice(options)

    def verb(self, rng: random.Random, options: Sequence[str]) -> str:
        """One of the options, or a made-up verb, of two parts at times."""
        verb = self.pick(rng, options)
        return f"{verb}_{invent(rng)}" if self.invented and rng.random() < _TWO_PARTS else verb

    def wording(self, rng: random.Random, options: Sequence[str]) -> str:
        """One of the options, ``filled``."""
        return self.filled(rng, rng.choice(options))

    @staticmethod
    def filled(rng: random.Random, text: str) -> str:
        """A made-up word for each ``[w]``."""
        parts = text.split("[w]")
        return parts[0] + "".join(invent(rng) + part for part in parts[1:])


def invent(rng: random.Random) -> str:
    """A word that is not in the held-out pool: of syllables, or of one to three tokens of the vocabulary.

    The tokens matter: a word is copied by copying its tokens, and a token that no training text has is never learnt.
    """
    while True:
        if rng.random() < 0.6:
            word = "".join(rng.choice(_pieces()) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        else:
            syllables = (
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 3)))
            )
            word = "".join(syllables)
        if len(word) > 2 and word not in _refused_words():
            return word


def common(rng: random.Random) -> str:
    """A word of the vocabulary: of what texts are made of, word after word."""
    return rng.choice(_pieces())


@cache
def _vocabulary() -> tuple[str, ...]:
    return tuple(json.loads(ASSET.read_text(encoding="utf-8"))["model"]["vocab"])


@cache
def _pieces() -> tuple[str, ...]:
    """Tokens of the engine's vocabulary that are lower-case letters."""
    return tuple(sorted(p for p in _vocabulary() if len(p) > 1 and p.isascii() and p.isalpha() and p.islower()))


@cache
def _refused_words() -> frozenset[str]:
    """Held-out words, and words of grammar: those have a token together with the space before them."""
    glued = (token[1:] for token in _vocabulary() if token.startswith("\u0120"))
    return frozenset((*HELD_OUT.nouns, *HELD_OUT.actions, *HELD_OUT.lookups, *HELD_OUT.values, *glued))


_TWO_PARTS = 0.12


_ONSETS = "b c d f g h k l m n p r s t v w br cl dr fl gr pl st tr ch sh th sw".split()
_VOWELS = "a e i o u ai ea ee oo ou".split()
_CODAS = ["", "", "", *"n r l t s m d ck nd st ng rt ll".split()]


TRAIN = Pools(
    actions=tuple(
        "book cancel order print move rename archive share start stop pause update delete upload download lock unlock "
        "clean repair paint build buy sell copy save close open mark add remove assign plan post publish record".split()
    ),
    lookups=tuple("get find check read count measure list show fetch search".split()),
    nouns=tuple(
        "room table ticket invoice report folder photo song video playlist lamp door window engine car truck bus train "
        "parcel box shelf recipe meal menu budget price balance task note page chart map route bridge garden field "
        "price temperature score level status size weight speed machine printer camera sensor battery timer alarm "
        "meeting lesson course exam class student worker guest member contract account card payment message".split()
    ),
    requests=tool_wordings.REQUESTS,
    pairs=tool_wordings.PAIRS,
    chains=tool_wordings.CHAINS,
    systems=(
        "You are a helpful assistant.", "You are a helpful assistant with tools. Use a tool only when you need it.", "",
        "Answer the user. Call tools when they help.", "You help people at work. Never invent what a tool should give.",
    ),
    people=tuple(
        "Anna Mia Lena Sara Nora Ella Ruth Clara Diana Emma Tom Ben Max Paul Mark Leo Adam Carl David Eric Frank George "
        "Henry Ivan Jack Julia Laura Maya Nina Olga Karl Luke Martin Nick Oscar Peter".split()
    ),
    places=tuple(
        "Rome Lyon Oslo Vienna Prague Madrid Lisbon Dublin Athens Cairo Delhi Lima Boston Denver Dallas Chicago Geneva "
        "Zurich Milan Naples Bergen Leeds York Bonn Cologne Hamburg Munich Kiel Porto Seville".split()
    ),
    texts=tuple(
        "see you at noon|the work is done|call me back|bring the keys|we start early|thank you for the help|the room is free|"
        "please wait for me|dinner is ready|the train is late|good luck today|do not forget the bag|the plan has changed|"
        "all is well here|send the report today|the price went up|water the plants|turn off the light".split("|")
    ),
    errors=(
        "service not available", "access denied", "time limit reached", "the server is busy", "not connected", "rate limit reached",
    ),
    facts=(
        *tool_wordings.FACTS,
        *(
            ("Hi!", "Hello! How can I help you?"), ("What color is the sky?", "The sky is blue."),
            ("How many days does a week have?", "A week has 7 days."), ("Hello!", "Hello! How can I help you?"),
            ("What color is grass?", "Grass is green."), ("How many months does a year have?", "A year has 12 months."),
            ("Is snow cold?", "Yes, snow is cold."), ("Thank you.", "You are welcome."),
            ("How many legs does a dog have?", "A dog has 4 legs."), ("Good morning!", "Hello! How can I help you?"),
            ("How many hours does a day have?", "A day has 24 hours."), ("Is fire hot?", "Yes, fire is hot."),
            ("What comes after Monday?", "After Monday comes Tuesday."), ("Hello again!", "Hello! How can I help you?"),
            ("How many minutes does an hour have?", "An hour has 60 minutes."), ("Hi, [w]!", "Hello! How can I help you?"),
            ("Good evening, my friend.", "Hello! How can I help you?"), ("Hello, here is [w].", "Hello! How can I help you?"),
        )
        * 6,
    ),
    values=tuple("open closed ready empty full high low good new old green red blue warm cold free busy done late early".split()),
    invented=0.6,
)  # fmt: skip

HELD_OUT = Pools(
    actions=tuple("send pack water schedule translate rent clear feed polish deliver".split()),
    lookups=tuple("look_up verify inspect compute".split()),
    nouns=tuple(
        "letter suitcase orchard appointment sentence bicycle inbox kitten mirror basket harbour tunnel kettle tower ledger market".split()
    ),
    requests=(
        "I would like you to {verb} the {noun}{with_}.", "Hey, {verb} the {noun}{with_}.", "Today I must {verb} the {noun}{with_}.",
        "Be so kind and {verb} the {noun}{with_}.", "Someone has to {verb} the {noun}{with_}, can you?",
    ),
    pairs=("{one} After that, {two}", "{one} Besides, {two}"),
    chains=("There is a {noun} named {name}. Find it and {verb} it.", "I am looking for the {noun} {name}; find it, then {verb} it."),
    systems=("You are an assistant that can use tools.", "You are a helpful assistant. Use tools when they are needed."),
    people=tuple("Amy Hugo Irene Felix Grace Victor Helen Bruno Vera Sam".split()),
    places=tuple("Paris Tokyo Berlin Sydney Malmo Turin Nairobi Quito".split()),
    texts=tuple("the meeting moved to three|lunch is at one|the boat leaves soon|keep the window open|meet me by the river".split("|")),
    errors=("temporarily out of order", "no answer from the server", "too many requests"),
    facts=(
        ("I call my {noun} {value}. What do I call my {noun}?", "Your {noun} is {value}."),
        ("Remember that the {noun} is {value} today. How is the {noun}?", "The {noun} is {value}."),
        ("For {person} the {noun} was {value}. How was the {noun}?", "The {noun} is {value}."), ("Hi there!", "Hello! How can I help you?"),
    ),
    values=tuple("narrow bright quiet heavy broken clean dry wet sharp round".split()),
)  # fmt: skip
