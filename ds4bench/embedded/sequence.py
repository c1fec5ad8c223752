"""One request inside the engine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch

_ids = itertools.count()


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. ``temperature`` 0 is greedy."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = all
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # None = none, n = the chosen token and the n best


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability of a chosen token and of the best alternatives, natural log."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Draft:
    """Guesses of a sequence's next tokens.

    ``probabilities`` FP32 ``[len(tokens), vocab]`` are the distributions that they were drawn from; None: they were not
    drawn, but are what the one who drafts always says here.
    """

    tokens: list[int] = field(default_factory=list)
    probabilities: torch.Tensor | None = None

    def first(self, count: int) -> Draft:
        """The first ``count`` of them."""
        return Draft(self.tokens[:count], None if self.probabilities is None else self.probabilities[:count])


@dataclass
class Sequence:
    """Tokens of a request, what of them is computed, and the blocks that hold it."""

    prompt_ids: list[int]
    params: SamplingParams
    cache_salt: str = ""
    seq_id: int = field(default_factory=lambda: next(_ids))
    output_ids: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks registered so far
    num_computed: int = 0
    num_cached: int | None = None  # prompt tokens found in the prefix cache at the first admission
    preemptions: int = 0
    draft: Draft = field(default_factory=Draft)
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.params.temperature > 0 and self.params.seed is not None:
            self.generator = torch.Generator().manual_seed(self.params.seed)

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens whose keys are not in the cache yet. One while decoding, more while prefilling."""
        return self.num_tokens - self.num_computed

    def tokens(self, start: int, end: int) -> list[int]:
        """Token ids at positions ``start .. end - 1``."""
        split = len(self.prompt_ids)
        if end <= split:
            return self.prompt_ids[start:end]
        if start >= split:
            return self.output_ids[start - split : end - split]
        return self.prompt_ids[start:] + self.output_ids[: end - split]
