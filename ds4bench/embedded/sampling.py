"""Choosing the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4bench.embedded.sequence import Sequence, TokenLogprob


@torch.inference_mode()
def sample(logits: Tensor, sequences: list[Sequence], eos_id: int) -> list[tuple[int, TokenLogprob | None]]:
    """A token for each row of ``logits`` FP32 ``[n, vocab]``, with its log probability where asked for.

    Log probabilities are those of the model, before temperature and truncation. A seeded request draws from its own
    generator, so its tokens do not depend on what else is in the batch.
    """
    for row, seq in zip(logits, sequences, strict=True):
        if len(seq.output_ids) < seq.params.min_tokens:
            row[eos_id] = -torch.inf
    greedy = logits.argmax(dim=-1).tolist()
    chosen = []
    for index, seq in enumerate(sequences):
        token = greedy[index] if seq.params.temperature == 0 else _draw(logits[index], seq)
        chosen.append((token, _logprob(logits[index], token, seq.params.logprobs)))
    return chosen


def _draw(logits: Tensor, seq: Sequence) -> int:
    params = seq.params
    probabilities, tokens = torch.softmax(logits / params.temperature, dim=-1).sort(descending=True)
    if params.top_k:
        probabilities[params.top_k :] = 0
    if params.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        probabilities[before >= params.top_p] = 0  # the first token always stays: before it the sum is 0
    return int(tokens[torch.multinomial(probabilities, 1, generator=seq.generator)])


def _logprob(logits: Tensor, token: int, count: int | None) -> TokenLogprob | None:
    if count is None:
        return None
    logprobs = torch.log_softmax(logits, dim=-1)
    best = logprobs.topk(count) if count else None
    top = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), top)
