"""Continuous batching with chunked prefill and preemption by recomputation."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ds4bench.embedded.block_manager import BlockManager
from ds4bench.embedded.config import EngineConfig
from ds4bench.embedded.sequence import Draft, Sequence


@dataclass(frozen=True)
class Scheduled:
    """``num_tokens`` of a sequence, from its first uncomputed one, run in this step, and a ``draft`` behind them."""

    seq: Sequence
    num_tokens: int
    draft: Draft = field(default_factory=Draft)

    @property
    def completes(self) -> bool:
        """Whether the step reaches the sequence's last token, so that a new one can be sampled."""
        return self.num_tokens == self.seq.num_uncomputed


class Scheduler:
    """Decides what each step runs: decodes first, then prefills in order of arrival, within the token budget."""

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self.config = config
        self.blocks = blocks
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, seq: Sequence) -> None:
        """Queue a request."""
        self.waiting.append(seq)

    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def schedule(self) -> list[Scheduled]:
        """The next step's work; empty only if there is nothing to do."""
        budget = self.config.max_num_batched_tokens
        preemptions = self.num_preemptions
        step: list[Scheduled] = []
        decodes = [s for s in self.running if s.num_uncomputed == 1]
        prefills = [s for s in self.running if s.num_uncomputed > 1]
        draft_budget = max(0, budget - len(decodes))  # every decode gets its token first
        for seq in decodes + prefills:
            count = min(seq.num_uncomputed, budget)
            if seq not in self.running or count == 0:  # preempted for an earlier one, or no budget left
                continue
            if self._make_room(seq, seq.num_computed + count):
                draft = self._draft(seq, draft_budget)
                step.append(Scheduled(seq, count, draft))
                draft_budget -= len(draft.tokens)
                budget -= count + len(draft.tokens)
        step = [item for item in step if item.seq in self.running]
        if self.num_preemptions == preemptions:  # else a victim would come straight back for the same blocks
            self._admit(step, budget)
        return step

    def finish_step(self, step: list[Scheduled]) -> None:
        """Account for a step that has run."""
        for item in step:
            item.seq.num_computed += item.num_tokens
            self.blocks.register_full(item.seq)

    def settle(self, seq: Sequence) -> None:
        """Account for the tokens that a step gave a sequence: all but the last are computed, as accepted drafts are."""
        seq.num_computed = seq.num_tokens - 1
        self.blocks.register_full(seq)

    def remove(self, seq: Sequence) -> None:
        """Take out a finished or abandoned request and free its blocks."""
        if seq in self.running:
            self.running.remove(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        self.blocks.release(seq)

    def _admit(self, step: list[Scheduled], budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            seq = self.waiting[0]
            cached = self.blocks.match_prefix(seq)
            count = min(seq.num_tokens - cached, budget)
            if not self.blocks.grow(seq, cached + count):
                self.blocks.release(seq)
                return
            seq.num_computed = cached
            if seq.num_cached is None:
                seq.num_cached = cached
            self.running.append(self.waiting.popleft())
            step.append(Scheduled(seq, count))
            budget -= count

    def _draft(self, seq: Sequence, budget: int) -> Draft:
        """What of the sequence's draft runs in this step. No one is preempted for it."""
        draft = seq.draft.first(budget)
        if draft.tokens and not self.blocks.grow(seq, seq.num_tokens + len(draft.tokens)):
            return Draft()
        return draft

    def _make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Blocks for ``num_tokens`` of a running sequence, taken from the newest others if need be."""
        while not self.blocks.grow(seq, num_tokens):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is seq:
                return False
        return True

    def _preempt(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self.blocks.release(seq)
        seq.num_computed = 0
        seq.draft = Draft()
        seq.preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(seq)
