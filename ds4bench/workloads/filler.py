"""Generated text for long prompts, from templates and words under ``prompts/long-context``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir


@dataclass(frozen=True)
class Filler:
    """The raw material of a prompt."""

    introduction: str
    code_sentences: list[str]
    question: str
    padding: str
    templates: list[str]
    words: dict[str, list[str]]

    def sentences(self, rng: random.Random, count: int) -> list[str]:
        """``count`` sentences. Templates and words are dealt like shuffled cards, each as often as its neighbours.

        Independent draws would do for reading, but not for counting: the tokens of a sentence would then differ by
        0.5 % between texts as long as 1,000 sentences, and a length calibrated on a short text would miss by 1 %.
        """
        templates = _dealt(rng, self.templates)
        words = _Hand({name: _dealt(rng, words) for name, words in self.words.items()})
        return [next(templates).format_map(words) for _ in range(count)]

    def compose(self, salt: str, sentences: list[str], codes: list[str], padding: int) -> str:
        """The prompt: salt, introduction, sentences with the codes at 10, 50 and 90 %, padding words, question."""
        body = list(sentences)
        for share, template, code in reversed(list(zip((0.1, 0.5, 0.9), self.code_sentences, codes, strict=True))):
            body.insert(int(len(sentences) * share), template.format(code=code))
        return f"{salt}{self.introduction}\n\n{' '.join(body)}{self.padding * padding}\n\n{self.question}"


def _dealt(rng: random.Random, cards: list[str]) -> Iterator[str]:
    """The cards in random order, shuffled again whenever all are dealt; without end."""
    while True:
        yield from rng.sample(cards, len(cards))


class _Hand(Mapping[str, str]):
    """Deals the next word of a list for each place of a template that names it."""

    def __init__(self, decks: dict[str, Iterator[str]]) -> None:
        self._decks = decks

    def __getitem__(self, name: str) -> str:
        return next(self._decks[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._decks)

    def __len__(self) -> int:
        return len(self._decks)


def load_filler(path: Path | None = None) -> Filler:
    """Read the filler file. Raises WorkloadError when it is missing or not as it should be."""
    import yaml

    path = path or prompts_dir() / "long-context" / "filler.yaml"
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text())
        return Filler(**data)
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise WorkloadError(f"{path}: cannot be read as long-context filler: {error}") from error
