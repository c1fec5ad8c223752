"""One gate on two serves beside each other, block by block in the order A B B A ..., so that a drift of the machine cancels.

Each side becomes an ordinary run; the base is the baseline of the other, and says that their repeats are pairs
(``stats/paired_ratio.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ds4bench.core import Baseline, GateVerdict, RunData, Verdict
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Outcome, Prepared, Recording, Started, fit_for_baseline, judged
from ds4bench.spec.load import EffectiveGate
from ds4bench.store import baselines
from ds4bench.store.provenance import hardware_fingerprint
from ds4bench.store.runs import write_verdict
from ds4bench.verdicts.blame import without_what_base_fails
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.extension import extension_due
from ds4bench.verdicts.rules.comparison import judges_times

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress


def own_cores(serve_args: Sequence[str]) -> tuple[str, ...]:
    """The flag that leaves each of two embedded serves half of the cores; none where ``serve_args`` say how many.

    Threads of two serves on the same cores wait for each other in turns (seven times slower on 2 cores). On half of them a
    serve is hardly slower, and less noisy: the client has cores of its own.
    """
    if any(flag.startswith("--threads") for flag in serve_args):
        return ()
    cores = hardware_fingerprint()["cores"] or 1
    return (f"--threads={max(1, cores // 2)}",)


async def together(*steps: Coroutine[Any, Any, None]) -> None:
    """All at once. What one of them raises is raised when the others have been cancelled and are gone."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def order(block: int) -> tuple[int, int]:
    """Which side (0: base, 1: head) is measured first and second in a block: A B, B A, A B, ..."""
    return (0, 1) if block % 2 == 0 else (1, 0)


@dataclass(frozen=True)
class PairVerdict:
    """What is said of head. ``unfit``: why the base run is no measurement, and the verdict therefore none of head.
    ``baseline``: what head was compared with."""

    run_id: str
    verdict: GateVerdict
    died: bool
    unfit: str | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class GatePair:
    """``base`` and ``head`` answer the gate in turns. ``at_once``: they have CPU cores enough of their own to answer
    together where no times are judged. ``label``: what the base is called in sentences. ``same_build``: both are, so that
    head is not excused for what the base does too. ``run_ids`` and ``sides`` (who is told of single batches) are those of
    base and head."""

    prepared: Prepared
    base: Started
    head: Started
    label: str
    progress: Progress
    at_once: bool = False
    same_build: bool = False
    run_ids: tuple[str, str] | None = None
    sides: tuple[Progress, Progress] = (SilentProgress(), SilentProgress())

    async def measure(self) -> PairVerdict:
        """All blocks, and the declared extension when they leave the comparison open. Raises RunInterruptedError,
        SpecError, WorkloadError."""
        gate = self.prepared.gate
        run_ids = self.run_ids or (self.prepared.new_run_id(), self.prepared.new_run_id())
        recordings = [
            Recording(self.prepared, serve, told, run_id=run_id, role=role)
            for serve, told, run_id, role in zip(
                (self.base, self.head), self.sides, run_ids, ("baseline", "candidate"), strict=True
            )
        ]
        with recordings[0], recordings[1]:
            await self.blocks(recordings, 0, gate.spec.repeats.count)
            found = self._compare(*[recording.load() for recording in recordings])
            most = gate.spec.repeats.extend_to
            if most is not None and extension_due(gate, found.verdict):
                self.progress.note(f"INCONCLUSIVE after {gate.spec.repeats.count} blocks: extended once, to {most}")
                await self.blocks(recordings, gate.spec.repeats.count, most)
                found = self._compare(*[recording.load() for recording in recordings])
        return found

    async def blocks(self, recordings: Sequence[Recording], first: int, last: int) -> None:
        """Blocks ``first`` to ``last`` (exclusive); ends early when a serve dies."""
        if self.at_once and not judges_times(recordings[0].gate.spec):
            await together(*(recording.run(last) for recording in recordings))
            return
        for block in range(first, last):
            for side in order(block):
                await recordings[side].run(block + 1)
                if recordings[side].load().died:
                    return
            self.progress.note(f"block {block + 1} of {last} done")

    def _compare(self, base: RunData, head: RunData) -> PairVerdict:
        """The verdict of head against base, kept in its run folder; a base run that is no measurement makes the comparison
        none either."""
        gate, died = self.prepared.gate, bool(head.died)
        run_id, outcome = head.manifest.run_id, judged(self.prepared.gate, base, None)
        if not died and (unfit := unfit_base(gate, outcome, self.label)):
            return PairVerdict(run_id, unfit, died, unfit.sentence)
        baseline = self._baseline(base, head)
        verdict = decide(gate, head, baseline)
        if not self.same_build:
            verdict = without_what_base_fails(gate.spec, verdict, outcome.verdict, self.label)
        write_verdict(run_id, verdict)
        return PairVerdict(run_id, verdict, died, baseline=baseline)

    def _baseline(self, base: RunData, head: RunData) -> Baseline:
        made = baselines.from_run(base, self.label)
        return msgspec.structs.replace(made, interleaved_with=head.manifest.run_id)


def unfit_base(gate: EffectiveGate, base: Outcome, label: str) -> GateVerdict | None:
    """What becomes of a gate whose base run is no measurement; None if it is one."""
    if fit_for_baseline(gate, base):
        return None
    why = f"the run of base {label} is not fit to compare with: {base.verdict.sentence}"
    kind = Verdict.INVALID if base.verdict.verdict is Verdict.INVALID else Verdict.INCONCLUSIVE
    return msgspec.structs.replace(base.verdict, verdict=kind, sentence=why, rules=[])
