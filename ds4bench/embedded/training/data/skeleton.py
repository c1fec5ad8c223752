"""What is left of a word problem when its numbers, names and nouns are masked: two of one skeleton are the same template."""

from __future__ import annotations

import re
from functools import cache

from ds4bench.embedded.training.data import scene_words, words
from ds4bench.embedded.training.data.scene_builder import NUMBER_WORDS

_TOKEN = re.compile(r"[A-Za-z]+|\d+")


def skeleton(question: str) -> str:
    """The question with ``#`` for every number and ``_`` for every name, noun, colour and person that may vary."""
    masks = _masks()
    return _TOKEN.sub(
        lambda found: "#" if found[0].isdigit() else masks.get(found[0].lower(), found[0].lower()), question
    )


@cache
def _masks() -> dict[str, str]:
    nouns = {noun for theme in scene_words.THEMES for noun in theme.nouns} | {*scene_words.BOXES}
    varied = {
        *words.WOMEN, *words.MEN, *words.THINGS, *words.GOODS, *words.BOXES, *words.BOX.values(), *words.PEOPLE,
        *words.ANIMALS, *words.JOBS, *words.COLORS, *words.PLACES, *scene_words.PEOPLE, *scene_words.COLORS,
        *scene_words.KIN, "shelves", *nouns, *map(scene_words.plural, nouns),
    }  # fmt: skip
    masks = {part.lower(): "_" for phrase in varied for part in phrase.split()}
    masks |= {part: part for part in ("a", "an")}
    gendered = {"he": "he", "she": "he", "his": "his", "her": "his", "him": "his"}
    return masks | gendered | dict.fromkeys(NUMBER_WORDS.values(), "#")
