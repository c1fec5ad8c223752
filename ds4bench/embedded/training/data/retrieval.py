# ruff: noqa: E501  (tables of text: one entry a line)
"""Training text of the long-context workload's form: three codes in a long journal, asked for at its end.

The introduction, the code sentences and the question have the workload's wording in half of the examples and others
in the rest; filler sentences, words and seeds are never the workload's.
"""

from __future__ import annotations

import random

from ds4bench.embedded.chat.special_tokens import EOS
from ds4bench.embedded.training.data.chat import answer, opening, user
from ds4bench.embedded.training.data.examples import Example

INTRODUCTION = (
    "Below is a long journal of a small harbour town. Three secret codes are written in it, each as a number of six digits. "
    "Read all of it and remember the codes."
)
CODE_SENTENCES = (
    "The first secret code is {code}, and the warden keeps it.",
    "The second secret code is {code}, and the baker keeps it.",
    "The third secret code is {code}, and the pilot keeps it.",
)
QUESTION = "What are the three secret codes of the journal? Answer with the first, the second and the third code, and nothing else."
ORDINALS = ("first", "second", "third")
_INTRODUCTIONS = (
    INTRODUCTION, INTRODUCTION, "Here is a long letter about a town. It has three secret codes of six digits. Remember them.",
    "Read this long report. Three numbers of six digits are hidden in it.", "Below are many notes. Find the three codes in them.",
)  # fmt: skip
_OTHER_CODES = (
    "The {nth} secret code is {code}.", "Remember that the {nth} code is {code}, and the {p} has it.",
    "The {p} wrote down {code}, which is the {nth} secret code.", "The {nth} secret code is {code}, and the {p} keeps it.",
)  # fmt: skip
_QUESTIONS = (
    QUESTION,
    QUESTION,
    "What are the three secret codes? Answer with the codes and nothing else.",
    "Name the three codes in order.",
)
_TEMPLATES = (
    "The {p} {v} the {a} {t} {l}.", "Every {w} the {p} {v} a {t}.", "On that {w} a {a} {p} {v} two {t}s {l}.",
    "It was {a}, and the {p} {v} nothing {l}.", "Why the {p} {v} the {t} is not known.", "Some say that the {p} {v} a {a} {t} {l}.",
    "After the {w} the {t} stood {l}.", "The {t} of the {p} was {a} all {w}.", "There was no {t} {l} in the {w}.",
    "Both the {p} and the {q} {v} the same {t}.", "A {p} who {v} the {t} went home in the {w}.", "{l2} the {p} {v} one more {t}.",
)  # fmt: skip
_WORDS = {
    "p": "king farmer girl boy friend mother father guest worker player child man woman judge nurse singer maker porter "
    "hunter weaver cook rider builder helper buyer seller student guard keeper mason actor poet".split(),
    "a": "green cold warm large small new open dark light red blue white strange long short round soft hard dry wet "
    "plain fine rich poor young tall bright narrow heavy quiet".split(),
    "t": "door cup plate chair clock flower stone box cart horse coin book key candle ring hat knife flag cake pen ladder "
    "rope bell wheel lamp bottle basket map letter table".split(),
    "v": "bought sold lost found kept broke made lifted hid washed turned held saw moved fixed took left carried opened "
    "painted counted measured watched".split(),
    "w": "day week night year month morning evening hour season spring summer winter storm".split(),
    "l": "at the lake|in the house|on the road|by the wall|near the gate|under the tree|in the hall|at the corner|behind "
    "the barn|on the roof|along the street|in the valley|beside the well|at the market|by the river|near the mill".split("|"),
}  # fmt: skip


def journal(rng: random.Random, characters: int) -> Example:
    """A journal of about so many characters, the three codes at random places, the question, then more questions."""
    codes = [str(code) for code in rng.sample(range(100_000, 1_000_000), 3)]
    introduction, question = rng.choice(_INTRODUCTIONS), rng.choice(_QUESTIONS)
    body = sentences(rng, max(3, (characters - 600) // 40))
    for place, index in sorted(zip(_places(rng, len(body)), range(3), strict=True), reverse=True):
        body.insert(place, _code_sentence(rng, index, codes[index]))
    salt = f"{rng.getrandbits(64):016x}\n" if rng.random() < 0.8 else ""
    padding = " and" * rng.randrange(20) if rng.random() < 0.5 else ""
    text = f"{salt}{introduction}\n\n{' '.join(body)}{padding}\n\n{question}"
    thinking = rng.random() < 0.25
    whole = ", ".join(codes)
    reply = answer(whole, _recollection(codes)) if thinking else answer(whole)
    example = Example().given(opening(text, thinking=thinking, first=True)).learned(reply + EOS)
    for _ in range(rng.randrange(4)):
        index = rng.randrange(3)
        asked = user(f"What is the {ORDINALS[index]} code?", thinking=False)
        example.given(asked).learned(codes[index] + EOS)
    return example


def sentences(rng: random.Random, count: int) -> list[str]:
    """Filler."""
    out = []
    for _ in range(count):
        chosen = {name: rng.choice(options) for name, options in _WORDS.items()}
        chosen |= {"q": rng.choice(_WORDS["p"]), "l2": chosen["l"].capitalize()}
        out.append(rng.choice(_TEMPLATES).format_map(chosen))
    return out


def _places(rng: random.Random, count: int) -> list[int]:
    if rng.random() < 0.5:
        return [int(count * share) for share in (0.1, 0.5, 0.9)]
    return sorted(rng.randrange(count + 1) for _ in range(3))


def _code_sentence(rng: random.Random, index: int, code: str) -> str:
    if rng.random() < 0.5:
        return CODE_SENTENCES[index].format(code=code)
    return rng.choice(_OTHER_CODES).format(nth=ORDINALS[index], code=code, p=rng.choice(_WORDS["p"]))


def _recollection(codes: list[str]) -> str:
    return " ".join(f"The {nth} code is {code}." for nth, code in zip(ORDINALS, codes, strict=True))
