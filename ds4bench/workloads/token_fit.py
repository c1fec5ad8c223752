"""Prompts of an exact token count, in few calls of the serve's tokenizer."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ds4bench.errors import WorkloadError
from ds4bench.workloads.token_count import Counter

_SHORT, _LONG = 36, 420
"""Sentences of the two calibration prompts: several deals of the word lists, few thousand tokens."""
_ROUNDS = 8
_TOLERANCE = 0.01
_ROOM = 1.05  # sentences drawn beyond the estimate, so that a correction never runs out


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt and the tokens that the serve counts in it, or should by calibration (``exact`` False)."""

    text: str
    tokens: int
    exact: bool


class TextSource(Protocol):
    """Where prompts are made from: a list of sentences that can be drawn in any number, and how they become a prompt."""

    def sentences(self, rng: random.Random, count: int) -> list[str]:
        """``count`` sentences of about the same length."""
        ...

    def compose(self, salt: str, sentences: list[str], codes: list[str], padding: int) -> str:
        """The prompt, with ``padding`` words of one token each."""
        ...


class TokenFitter:
    """Knows how many tokens a sentence of the filler has on average for one serve."""

    def __init__(self, filler: TextSource, counter: Counter) -> None:
        self._filler = filler
        self._counter = counter
        self._per_sentence = 0.0
        self._fixed = 0.0

    def with_source(self, source: TextSource) -> TokenFitter:
        """The same calibration for a source whose sentences and fixed parts are as long as this one's."""
        other = copy.copy(self)
        other._filler = source
        return other

    async def calibrate(self, salt: Callable[[int], str], codes: list[str], longest: int) -> None:
        """Measure two short prompts; the salts must be used for nothing else, since these prompts may be sent.

        Neither has more tokens than ``longest``, the longest prompt of the gate, unless that is very short.
        """

        async def count(size: int, index: int) -> int:
            sentences = self._filler.sentences(random.Random(size), size)  # noqa: S311 - text, not secrets
            return await self._counter.count(self._filler.compose(salt(index), sentences, codes, 0))

        counts = [await count(_SHORT, 0)]
        size = max(2 * _SHORT, min(_LONG, longest * _SHORT // counts[0]))
        counts.append(await count(size, 1))
        self._per_sentence = (counts[1] - counts[0]) / (size - _SHORT)
        self._fixed = counts[0] - self._per_sentence * _SHORT
        if self._per_sentence <= 0:
            raise WorkloadError(
                f"a longer prompt does not count more tokens ({counts[0]} and {counts[1]}): no tokenizer to fit to"
            )

    async def fit(self, target: int, salt: str, codes: list[str], seed: str) -> FittedPrompt:
        """A prompt of ``target`` tokens. Without an exact counter it is as close as the calibration allows.

        Raises WorkloadError when ``target`` is too short for a prompt at all, or cannot be met within 1 %.
        """
        estimate = int((target - self._fixed) / self._per_sentence)
        if estimate < 1:
            shortest = math.ceil(self._fixed + self._per_sentence)
            raise WorkloadError(
                f"a prompt of {target:,} tokens is too short for the codes and the question: ask for {shortest:,} or more"
            )
        sentences = self._filler.sentences(random.Random(seed), int(estimate * _ROOM) + 8)  # noqa: S311
        used, padding = estimate, 0
        if not self._counter.exact:
            # The padding word is one token in every vocabulary of a served model: it fills what is less than a sentence.
            padding = round(target - self._fixed - used * self._per_sentence)
            return FittedPrompt(self._filler.compose(salt, sentences[:used], codes, padding), target, exact=False)
        best: FittedPrompt | None = None
        for _ in range(_ROUNDS):
            text = self._filler.compose(salt, sentences[:used], codes, padding)
            tokens = await self._counter.count(text)
            if best is None or abs(tokens - target) < abs(best.tokens - target):
                best = FittedPrompt(text, tokens, exact=True)
            missing = target - tokens
            if missing == 0:
                break
            if padding + missing < 0 or missing > 2 * self._per_sentence:
                used = min(len(sentences), max(1, used + int(missing // self._per_sentence)))
                padding = 0
            else:
                padding += missing
        assert best is not None
        if abs(best.tokens - target) > _TOLERANCE * target:
            raise WorkloadError(f"no prompt of {target:,} tokens could be built: the nearest has {best.tokens:,}")
        return best
