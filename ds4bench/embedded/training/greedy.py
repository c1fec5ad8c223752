"""Greedy decoding without a key cache: whole sequences are computed again, and a guess of the reply saves rounds.

A guess is checked in one pass, as speculative decoding does it: what is returned never depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ds4bench.embedded.training.model import TrainingModel


@dataclass
class Reply:
    """A prompt, a guess of its reply, and the reply so far."""

    prompt: list[int]
    guess: list[int]
    tokens: list[int] = field(default_factory=list)
    done: bool = False


def complete(
    model: TrainingModel,
    replies: Sequence[Reply],
    ended: Callable[[list[int]], bool],
    *,
    longest: int,
    budget: int,
    rounds: int = 1000,
) -> None:
    """Decode every reply until ``ended`` says so of its tokens, or ``longest`` tokens.

    ``budget``: tokens of a batch, padding included; a sequence that is longer goes alone. After ``rounds`` passes over a
    sequence its reply stays as short as it is.
    """
    for _ in range(rounds):
        active = [reply for reply in replies if not reply.done]
        if not active:
            return
        for batch in _batches(active, budget):
            rows = [reply.prompt + reply.tokens + reply.guess for reply in batch]
            width = max(len(row) for row in rows)
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.head.weight.device)
            best = model.choices(ids).tolist()
            for reply, row in zip(batch, best, strict=True):
                _accept(reply, row[len(reply.prompt) + len(reply.tokens) - 1 :], ended, longest)


def _accept(reply: Reply, chosen: list[int], ended: Callable[[list[int]], bool], longest: int) -> None:
    """Take tokens while the guess agrees, and the model's own one behind it; keep the rest as the next guess."""
    for i in range(len(reply.guess) + 1):
        reply.tokens.append(chosen[i])
        if ended(reply.tokens) or len(reply.tokens) >= longest:
            reply.done = True
            return
        if i < len(reply.guess) and chosen[i] != reply.guess[i]:
            break
    reply.guess = reply.guess[i + 1 :]


def _batches(replies: Sequence[Reply], budget: int) -> list[list[Reply]]:
    ordered = sorted(replies, key=lambda r: len(r.prompt) + len(r.tokens) + len(r.guess))
    batches: list[list[Reply]] = [[]]
    for reply in ordered:  # the last of a batch is its longest
        width = len(reply.prompt) + len(reply.tokens) + len(reply.guess)
        if batches[-1] and (len(batches[-1]) + 1) * width > budget:
            batches.append([])
        batches[-1].append(reply)
    return batches
