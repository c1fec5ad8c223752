"""Choosing the next tokens: drawing one, and accepting a draft so that the output is distributed as without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ds4bench.embedded.sequence import Draft, SamplingParams, Sequence, TokenLogprob


class Chosen(NamedTuple):
    """A token, with its log probability where that is asked for."""

    token: int
    logprob: TokenLogprob | None


Verifier = Callable[[Tensor, list[int], Draft, Sequence], list[int]]
"""Takes logits ``[1 + len(draft), vocab]`` and their greedy tokens: the accepted part of a draft and one token more."""


def verified(rows: Tensor, greedy: list[int], draft: Draft, seq: Sequence) -> list[int]:
    """What comes out is distributed as without the draft."""
    return _matching(greedy, draft) if seq.params.temperature == 0 else _accepted(rows, draft, seq)


@torch.inference_mode()
def sample(
    logits: Tensor, sequences: list[Sequence], drafts: list[Draft], eos_id: int, verify: Verifier = verified
) -> list[list[Chosen]]:
    """For each sequence the accepted part of its draft and one token behind it.

    ``logits`` FP32 ``[n, vocab]`` has 1 + len(draft) rows a sequence: row i follows i tokens of the draft. They are
    changed where ``min_tokens`` forbids the end. Log probabilities are those of the model, before temperature and
    truncation. A seeded request draws from its own generator, so its tokens do not depend on what else is in the batch.
    """
    parts = torch.split(logits, [1 + len(draft.tokens) for draft in drafts])
    for rows, seq in zip(parts, sequences, strict=True):
        forbid_early_end(rows, seq, len(seq.output_ids), eos_id)
    best = iter(logits.argmax(dim=-1).tolist())
    chosen = []
    for rows, seq, draft in zip(parts, sequences, drafts, strict=True):
        greedy = [next(best) for _ in rows]
        tokens = verify(rows, greedy, draft, seq)
        chosen.append([Chosen(t, _logprob(row, t, seq.params.logprobs)) for t, row in zip(tokens, rows, strict=False)])
    return chosen


def forbid_early_end(rows: Tensor, seq: Sequence, num_output_tokens: int, eos_id: int) -> None:
    """Take the end token from those of consecutive rows ``[n, vocab]``, the first of them behind ``num_output_tokens``,
    that come before ``min_tokens``."""
    rows[: max(0, seq.params.min_tokens - num_output_tokens), eos_id] = -torch.inf


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """What a request with a temperature above 0 draws from: FP32 ``[vocab]``, sum 1, of logits ``[vocab]``."""
    probabilities = torch.softmax(logits / params.temperature, dim=-1)
    if not params.top_k and params.top_p >= 1:
        return probabilities
    ordered, tokens = probabilities.sort(descending=True)
    if params.top_k:
        ordered[params.top_k :] = 0
    if params.top_p < 1:
        before = ordered.cumsum(0) - ordered
        ordered[before >= params.top_p] = 0  # the first token always stays: before it the sum is 0
    return torch.zeros_like(probabilities).scatter_(0, tokens, ordered / ordered.sum())


def draw(weights: Tensor, seq: Sequence) -> int:
    """A token in proportion to ``weights [vocab]``."""
    return int(torch.multinomial(weights, 1, generator=seq.generator))


def _matching(greedy: list[int], draft: Draft) -> list[int]:
    accepted = 0
    while accepted < len(draft.tokens) and draft.tokens[accepted] == greedy[accepted]:
        accepted += 1
    return greedy[: accepted + 1]


def _accepted(rows: Tensor, draft: Draft, seq: Sequence) -> list[int]:
    """Speculative sampling (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1).

    A token x drafted from q is accepted with probability min(1, p(x) / q(x)). Else the token is drawn from what q gave
    too little, max(0, p - q), and the draft ends. What comes out is distributed as p whatever q is.
    """
    for index, token in enumerate(draft.tokens):
        target = distribution(rows[index], seq.params)
        proposal = _proposal(draft, index, target)
        if torch.rand((), generator=seq.generator) * proposal[token] < target[token]:
            continue
        missing = (target - proposal).clamp_min_(0)
        return [*draft.tokens[:index], draw(missing if missing.any() else target, seq)]  # none: p = q but for rounding
    return [*draft.tokens, draw(distribution(rows[-1], seq.params), seq)]


def _proposal(draft: Draft, index: int, target: Tensor) -> Tensor:
    if draft.probabilities is not None:
        return draft.probabilities[index]
    certain = torch.zeros_like(target)
    certain[draft.tokens[index]] = 1
    return certain


def _logprob(logits: Tensor, token: int, count: int | None) -> TokenLogprob | None:
    if count is None:
        return None
    logprobs = torch.log_softmax(logits, dim=-1)
    best = logprobs.topk(count) if count else None
    top = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
