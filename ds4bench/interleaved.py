"""Two serves side by side, measured repeat by repeat in the order A B B A ..., so that a drift of the machine cancels.

Of a gate that judges times only one of them is under load at a time; the other waits. What judges answers alone may be
asked of both at once. Each gate becomes two ordinary runs; the base is the baseline of the other, and says that their
repeats are pairs (``stats/paired_ratio.py``). A gate that compares nothing is run on head, and on the base where head
fails it: head is not blamed for what the base does too (``verdicts/blame.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from ds4bench.core import Baseline, GateVerdict, RunData, Verdict
from ds4bench.errors import SpecError, WorkloadError
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import (
    Outcome,
    Recording,
    Started,
    TargetOptions,
    fit_for_baseline,
    judged,
    measure,
    started,
)
from ds4bench.store import baselines, suite_runs
from ds4bench.store.runs import write_verdict
from ds4bench.suite_runner import Job, compares
from ds4bench.verdicts.blame import breaks_absolute_rule, without_what_base_fails
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.extension import extension_due
from ds4bench.verdicts.promotion import SuiteLine
from ds4bench.verdicts.rules.comparison import judges_times

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress


@dataclass(frozen=True)
class Side:
    """One of the two revisions: what launches its serve, and how it is called."""

    target: TargetOptions
    label: str


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


class InterleavedRunner:
    """One ``ds4bench ci``: every gate on both sides, or only on head where its rules compare nothing and hold.

    ``at_once``: the serves have CPU cores enough of their own to answer together where no times are judged.
    """

    def __init__(
        self, jobs: Sequence[Job], base: Side, head: Side, run_id: str, progress: Progress, *, at_once: bool = False
    ) -> None:
        self.jobs, self.base, self.head, self.at_once = jobs, base, head, at_once
        self.run_id, self.progress = run_id, progress

    async def run(self) -> list[SuiteLine]:
        """The lines of the gates; those after a dead serve are not run. Raises RunInterruptedError, TargetError."""
        lines = [self._blank(job) for job in self.jobs]
        folder = suite_runs.folder_of(self.run_id)
        async with AsyncExitStack() as stack:
            serves = [
                await stack.enter_async_context(
                    started(side.target, folder / f"serve-{name}.log", self.run_id, self.progress)
                )
                for name, side in (("base", self.base), ("head", self.head))
            ]
            for place, job in enumerate(self.jobs):
                self.progress.note(f"gate {place + 1} of {len(self.jobs)}: {job.title}")
                begun = time.monotonic()
                line = await self._gate(job, lines[place], serves)
                lines[place] = replace(line, seconds=time.monotonic() - begun)
                self.progress.note(f"{job.title}: {line.sentence}")
                if not all(serve.target.alive() for serve in serves):
                    break
        return lines

    def _blank(self, job: Job) -> SuiteLine:
        gate = job.prepared.gate
        return SuiteLine(
            gate.spec.name, gate.profile, may_skip=job.entry.may_skip, looks=gate.spec.repeats.looks
        )  # fmt: skip

    async def _gate(self, job: Job, line: SuiteLine, serves: Sequence[Started]) -> SuiteLine:
        try:
            if not compares(job.prepared.gate.spec):
                return await self._alone(job, line, serves)
            return await self._pair(job, line, serves)
        except WorkloadError as error:
            return replace(line, verdict=Verdict.SKIPPED, sentence=f"the serve cannot run this gate: {error}")
        except SpecError as error:
            return replace(line, verdict=Verdict.INCONCLUSIVE, sentence=str(error))

    async def _alone(self, job: Job, line: SuiteLine, serves: Sequence[Started]) -> SuiteLine:
        run_id = job.prepared.new_run_id()
        head = await self._run(job, serves[1], run_id, "candidate")
        verdict, spec = head.verdict, job.prepared.gate.spec
        if breaks_absolute_rule(spec, verdict):
            self.progress.note(f"{job.title}: {self.head.label} fails it; is {self.base.label} better?")
            base = await self._run(job, serves[0], job.prepared.new_run_id(), "baseline")
            verdict = self._unfit(job, base) or without_what_base_fails(spec, verdict, base.verdict, self.base.label)
            write_verdict(run_id, verdict)
        return line.with_verdict(verdict, run_id)

    async def _run(self, job: Job, serve: Started, run_id: str, role: str) -> Outcome:
        """One side alone, judged by the rules that need nothing to compare with."""
        run = await measure(job.prepared, serve, SilentProgress(), run_id=run_id, role=role)
        return judged(job.prepared.gate, run, None)

    async def _pair(self, job: Job, line: SuiteLine, serves: Sequence[Started]) -> SuiteLine:
        ids = (job.prepared.new_run_id(), job.prepared.new_run_id())
        gate = job.prepared.gate
        recordings = [
            Recording(job.prepared, serve, SilentProgress(), run_id=run_id, role=role)
            for serve, run_id, role in zip(serves, ids, ("baseline", "candidate"), strict=True)
        ]
        with recordings[0], recordings[1]:
            await self._blocks(recordings, 0, gate.spec.repeats.count)
            verdict = self._compare(job, *[recording.load() for recording in recordings])
            most = gate.spec.repeats.extend_to
            if most is not None and extension_due(gate, verdict):
                self.progress.note(f"INCONCLUSIVE after {gate.spec.repeats.count} blocks: extended once, to {most}")
                await self._blocks(recordings, gate.spec.repeats.count, most)
                verdict = self._compare(job, *[recording.load() for recording in recordings])
        return line.with_verdict(verdict, ids[1])

    async def _blocks(self, recordings: Sequence[Recording], first: int, last: int) -> None:
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

    def _compare(self, job: Job, base: RunData, head: RunData) -> GateVerdict:
        """The verdict of head against base, kept in its run folder; a base run that is no measurement makes the comparison
        none either."""
        outcome = judged(job.prepared.gate, base, None)
        if not head.died and (unfit := self._unfit(job, outcome)):
            return unfit
        verdict = decide(job.prepared.gate, head, self._baseline(base, head))
        verdict = without_what_base_fails(job.prepared.gate.spec, verdict, outcome.verdict, self.base.label)
        write_verdict(head.manifest.run_id, verdict)
        return verdict

    def _unfit(self, job: Job, base: Outcome) -> GateVerdict | None:
        """What becomes of a gate whose base run is no measurement; None if it is one."""
        if fit_for_baseline(job.prepared.gate, base):
            return None
        why = f"the run of base {self.base.label} is not fit to compare with: {base.verdict.sentence}"
        kind = Verdict.INVALID if base.verdict.verdict is Verdict.INVALID else Verdict.INCONCLUSIVE
        return msgspec.structs.replace(base.verdict, verdict=kind, sentence=why, rules=[])

    def _baseline(self, base: RunData, head: RunData) -> Baseline:
        made = baselines.from_run(base, self.base.label)
        return msgspec.structs.replace(made, interleaved_with=head.manifest.run_id)
