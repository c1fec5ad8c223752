"""Prompts of an exact token count, in few calls of the serve's tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ds4bench.errors import WorkloadError
from ds4bench.workloads.filler import Filler
from ds4bench.workloads.token_count import Counter

_SAMPLE = (40, 240)
_ROUNDS = 8
_ROOM = 1.05  # sentences drawn beyond the estimate, so that a correction never runs out


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt and the tokens that the serve counts in it, or should by calibration (``exact`` False)."""

    text: str
    tokens: int
    exact: bool


class TokenFitter:
    """Knows how many tokens a sentence of the filler has on average for one serve."""

    def __init__(self, filler: Filler, counter: Counter) -> None:
        self._filler = filler
        self._counter = counter
        self._per_sentence = 0.0
        self._fixed = 0.0

    async def calibrate(self, salt: Callable[[int], str], codes: list[str]) -> None:
        """Measure two short prompts; the salts must be used for nothing else, since these prompts are sent."""
        counts = []
        for index, size in enumerate(_SAMPLE):
            sentences = self._filler.sentences(random.Random(size), size)  # noqa: S311 - text, not secrets
            counts.append(await self._counter.count(self._filler.compose(salt(index), sentences, codes, 0)))
        self._per_sentence = (counts[1] - counts[0]) / (_SAMPLE[1] - _SAMPLE[0])
        self._fixed = counts[0] - self._per_sentence * _SAMPLE[0]
        if self._per_sentence <= 0:
            raise WorkloadError(
                f"a longer prompt does not count more tokens ({counts[0]} and {counts[1]}): no tokenizer to fit to"
            )

    async def fit(self, target: int, salt: str, codes: list[str], seed: str) -> FittedPrompt:
        """A prompt of ``target`` tokens. Without an exact counter it is as close as the calibration allows."""
        estimate = max(1, int((target - self._fixed) / self._per_sentence))
        sentences = self._filler.sentences(random.Random(seed), int(estimate * _ROOM) + 8)  # noqa: S311
        used, padding = estimate, 0
        if not self._counter.exact:
            return FittedPrompt(self._filler.compose(salt, sentences[:used], codes, 0), target, exact=False)
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
        return best
