"""Two serves side by side, every gate of a suite on both: one ``ds4bench ci``.

Of a gate that judges times only one of them is under load at a time; the other waits (``paired_gate.py``). A gate that
compares nothing is run on head, and on the base where head fails it: head is not blamed for what the base does too
(``verdicts/blame.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ds4bench.core import Verdict
from ds4bench.errors import SpecError, WorkloadError
from ds4bench.paired_gate import GatePair, unfit_base
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Outcome, Started, TargetOptions, judged, measure, started
from ds4bench.store import suite_runs
from ds4bench.store.runs import write_verdict
from ds4bench.suite_runner import Job, compares
from ds4bench.verdicts.blame import breaks_absolute_rule, without_what_base_fails
from ds4bench.verdicts.promotion import SuiteLine

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress


@dataclass(frozen=True)
class Side:
    """One of the two revisions: what launches its serve, and how it is called."""

    target: TargetOptions
    label: str


class InterleavedRunner:
    """Every gate on both sides, or only on head where its rules compare nothing and hold.

    ``at_once``: the serves have CPU cores enough of their own to answer together where no times are judged.
    """

    def __init__(
        self, jobs: Sequence[Job], base: Side, head: Side, run_id: str, progress: Progress, *, at_once: bool = False
    ) -> None:
        self.jobs, self.base, self.head, self.at_once = jobs, base, head, at_once
        self.run_id, self.progress = run_id, progress

    async def run(self) -> list[SuiteLine]:
        """The lines of the gates; those after a dead serve are not run, and the first of them is INVALID. Raises
        RunInterruptedError, TargetError."""
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
                if died := self._deaths(serves):
                    return _ended(lines, place, died)
        return lines

    def _deaths(self, serves: Sequence[Started]) -> str:
        """Whose serves have died and of what; empty while both live."""
        ends = [
            f"the serve of {side.label} died before this gate: {serve.target.death_note() or 'its process is gone'}"
            for side, serve in zip((self.base, self.head), serves, strict=True)
            if not serve.target.alive()
        ]
        return "; ".join(ends)

    def _blank(self, job: Job) -> SuiteLine:
        gate = job.prepared.gate
        return SuiteLine(
            gate.spec.name, gate.profile, may_skip=job.entry.may_skip, looks=gate.spec.repeats.looks
        )  # fmt: skip

    async def _gate(self, job: Job, line: SuiteLine, serves: Sequence[Started]) -> SuiteLine:
        try:
            if not compares(job.prepared.gate.spec):
                return await self._alone(job, line, serves)
            pair = GatePair(
                job.prepared, serves[0], serves[1], self.base.label, self.progress, at_once=self.at_once
            )  # fmt: skip
            found = await pair.measure()
            return line.with_verdict(found.verdict, found.run_id)
        except WorkloadError as error:
            return replace(line, verdict=Verdict.SKIPPED, sentence=f"the serve cannot run this gate: {error}")
        except SpecError as error:
            return replace(line, verdict=Verdict.INCONCLUSIVE, sentence=str(error))

    async def _alone(self, job: Job, line: SuiteLine, serves: Sequence[Started]) -> SuiteLine:
        run_id, gate = job.prepared.new_run_id(), job.prepared.gate
        head = await self._run(job, serves[1], run_id, "candidate")
        verdict = head.verdict
        if breaks_absolute_rule(gate.spec, verdict):
            self.progress.note(f"{job.title}: {self.head.label} fails it; is {self.base.label} better?")
            base = await self._run(job, serves[0], job.prepared.new_run_id(), "baseline")
            verdict = unfit_base(gate, base, self.base.label) or without_what_base_fails(
                gate.spec, verdict, base.verdict, self.base.label
            )
            write_verdict(run_id, verdict)
        return line.with_verdict(verdict, run_id)

    async def _run(self, job: Job, serve: Started, run_id: str, role: str) -> Outcome:
        """One side alone, judged by the rules that need nothing to compare with."""
        run = await measure(job.prepared, serve, SilentProgress(), run_id=run_id, role=role)
        return judged(job.prepared.gate, run, None)


def _ended(lines: Sequence[SuiteLine], place: int, died: str) -> list[SuiteLine]:
    """The lines when a serve was found dead after the gate at ``place``. A gate that could not be measured is INVALID, not
    open: an open comparison may be allowed (``--inconclusive-ok``), a crash never. Where the gate at ``place`` is INVALID the
    death has its line already."""
    ended = list(lines)
    if ended[place].verdict is not Verdict.INVALID and place + 1 < len(ended):
        ended[place + 1] = replace(ended[place + 1], verdict=Verdict.INVALID, sentence=died)
    return ended
