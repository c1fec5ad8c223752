"""Batches of token ids: for each step a seeded mixture of the kinds of text, all rows of one length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ds4bench.embedded.tokenizer import ASSET
from ds4bench.embedded.training.data import arithmetic, dialogues, retrieval
from ds4bench.embedded.training.data.examples import Example

GIVEN_WEIGHT = 0.05
"""Loss weight of a prompt's tokens: they teach the language, replies are what is wanted."""

_CHARACTERS_PER_TOKEN = {
    "few_shot": 2.3, "conversation": 2.65, "journal": 2.95, "short_dialogue": 3.35, "echo": 3.6, "dialogue": 3.6,
}  # fmt: skip
_MIXTURES = (  # up to this length: share of each kind
    (512, {"few_shot": 0.45, "conversation": 0.13, "journal": 0.07, "short_dialogue": 0.25, "echo": 0.1}),
    (2048, {"few_shot": 0.28, "conversation": 0.1, "journal": 0.07, "short_dialogue": 0.05, "dialogue": 0.5}),
    (1 << 30, {"few_shot": 0.15, "conversation": 0.05, "journal": 0.4, "dialogue": 0.4}),
)
_SEVERAL = 8_000
"""Characters from which on a row has several dialogues, each with tools of its own."""


@dataclass(frozen=True)
class BatchKey:
    """What a batch is made from, and nothing else: the same key gives the same batch."""

    seed: int
    step: int
    length: int
    tokens: int


class TextBatches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """``[key]`` is (ids int64 ``[B, L]``, loss weights FP32 ``[B, L]`` of each token as a target)."""

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        rng = random.Random(f"{key.seed} {key.step} {key.length}")  # noqa: S311 - training data
        rows = max(1, key.tokens // key.length)
        encoded = [self._row(rng, key.length) for _ in range(rows)]
        return torch.stack([row[0] for row in encoded]), torch.stack([row[1] for row in encoded])

    def row(self, example: Example) -> tuple[list[int], list[float]]:
        """Token ids and loss weights of an example."""
        learned: list[bool] = []
        for piece in example.pieces:
            learned += [piece.learned] * len(piece.text)
        encoding = self._tokenizer.encode(example.text(), add_special_tokens=False)
        return list(encoding.ids), [1.0 if learned[start] else GIVEN_WEIGHT for start, _ in encoding.offsets]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(ASSET))  # one in each worker process

    def _row(self, rng: random.Random, length: int) -> tuple[Tensor, Tensor]:
        shares = next(shares for limit, shares in _MIXTURES if length <= limit)
        kind = rng.choices(list(shares), list(shares.values()))[0]
        room = length * _CHARACTERS_PER_TOKEN[kind]
        while True:
            ids, weights = self.row(_make(rng, kind, int(room)))
            if kind != "journal" or len(ids) <= length:  # a journal's answer stands at its end
                break
            room *= 0.9
        ids, weights = ids[:length], weights[:length]
        missing = length - len(ids)
        return torch.tensor(ids + [0] * missing), torch.tensor(weights + [0.0] * missing)


def _make(rng: random.Random, kind: str, room: int) -> Example:
    if kind == "few_shot":
        return arithmetic.few_shot(rng, room)
    if kind == "conversation":
        return arithmetic.conversation(rng, room)
    if kind == "echo":
        return dialogues.echo(rng, room)
    if kind == "short_dialogue":
        return dialogues.short_dialogue(rng, room)
    if kind == "dialogue":
        return _dialogues(rng, room)
    return retrieval.journal(rng, int(room * rng.uniform(0.6, 1.0)))


def _dialogues(rng: random.Random, room: int) -> Example:
    if room < _SEVERAL:
        return dialogues.dialogue(rng, room)
    example, used = Example(), 0
    while used < room:
        part = dialogues.dialogue(rng, int(rng.uniform(0.7, 2.0) * _SEVERAL))
        example.pieces += part.pieces
        used += len(part.text())
    return example


def loader(keys: Iterator[BatchKey], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the order of the keys, made by ``workers`` processes (0: by this one)."""
    options: dict[str, Any] = {"prefetch_factor": 3, "persistent_workers": True} if workers else {}
    return iter(
        torch.utils.data.DataLoader(
            TextBatches(),
            batch_size=None,
            sampler=_Keys(keys),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
    )


class _Keys(torch.utils.data.Sampler[BatchKey]):
    def __init__(self, keys: Iterator[BatchKey]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[BatchKey]:
        return self._keys
