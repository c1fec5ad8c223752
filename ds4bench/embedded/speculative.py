"""Drafting tokens for the next step, where the model verifies them with the rows of one decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.sampling import distribution, draw, forbid_early_end
from ds4bench.embedded.sequence import Draft, Sequence


@dataclass(frozen=True)
class Computed:
    """What a step computed of a sequence: positions ``start .. end - 1``; the token at ``end`` is known.

    ``source`` is the step's input, ``block_ids`` are its blocks. ``max_drafts`` is how many tokens behind ``end`` are
    worth a guess: 0 if the sequence is still in its prompt or has ended.
    """

    seq: Sequence
    source: int
    start: int
    end: int
    block_ids: list[int]
    max_drafts: int


class Drafter(Protocol):
    """Guesses tokens. The output does not depend on how well, only its speed does."""

    def draft(self, computed: list[Computed]) -> list[Draft]:
        """At most ``max_drafts`` tokens for each, to stand behind the token at ``end``."""
        ...


class DraftRunner(Protocol):
    """Runs the model's MTP block."""

    def draft(self, inputs: list[StepInput], sources: list[int]) -> Tensor:
        """See ``runner.ModelRunner.draft``."""
        ...


class MtpDrafter:
    """Drafts with the model's own MTP block, which reads all that a step computed, prompts included.

    A guess is drawn as the request draws its tokens: with its temperature, truncation and generator, greedily at 0.
    """

    def __init__(self, runner: DraftRunner, eos_id: int) -> None:
        self._runner = runner
        self._eos_id = eos_id

    @torch.inference_mode()
    def draft(self, computed: list[Computed]) -> list[Draft]:
        """One pass over the step's positions gives each first guess, each further guess takes a pass of one token."""
        guesses = [_Guess(item) for item in computed]
        inputs = [_behind_step(item) for item in computed]
        logits = self._runner.draft(inputs, [item.source for item in computed])
        active = [index for index, item in enumerate(computed) if item.max_drafts]
        while active:
            for index, row in zip(active, logits, strict=True):
                guesses[index].add(row, self._eos_id)
            more = [index for index in active if guesses[index].wants_more]
            if more:
                inputs = [guesses[index].step_input() for index in more]
                logits = self._runner.draft(inputs, [active.index(index) for index in more])
            active = more
        return [guess.result() for guess in guesses]


class _Guess:
    """A draft in the making."""

    def __init__(self, computed: Computed) -> None:
        self.computed = computed
        self.tokens: list[int] = []
        self.probabilities: list[Tensor] = []

    @property
    def wants_more(self) -> bool:
        return len(self.tokens) < self.computed.max_drafts

    def add(self, logits: Tensor, eos_id: int) -> None:
        seq = self.computed.seq
        forbid_early_end(logits.unsqueeze(0), seq, len(seq.output_ids) + len(self.tokens), eos_id)
        if seq.params.temperature == 0:
            self.tokens.append(int(logits.argmax()))
            return
        self.probabilities.append(distribution(logits, seq.params))
        self.tokens.append(draw(self.probabilities[-1], seq))

    def step_input(self) -> StepInput:
        position = self.computed.end + len(self.tokens) - 1
        return StepInput(self.tokens[-1:], position, self.computed.block_ids, want_logits=True)

    def result(self) -> Draft:
        return Draft(self.tokens, torch.stack(self.probabilities) if self.probabilities else None)


def _behind_step(item: Computed) -> StepInput:
    tokens = item.seq.tokens(item.start + 1, item.end + 1)
    return StepInput(tokens, item.start, item.block_ids, want_logits=item.max_drafts > 0)
