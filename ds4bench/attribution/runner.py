"""Measures what the search asks for: every configuration is an ordinary run on a serve of its own, against one baseline.

The baseline is the engine on its own kernels. Where the machine has drifted since (the fixed CPU probe says so) it is
measured again beside the step in question. Everything is kept on disk before the next serve starts.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ds4bench.attribution.effects import StepEffect, drifted, effect_of
from ds4bench.attribution.op_table import ALL, described, parts_of, regrouped, switchable
from ds4bench.attribution.search import Effect, Findings, Group, OpSet, follow, search
from ds4bench.core import Baseline, GateVerdict, KernelUse, RunData
from ds4bench.errors import TargetError
from ds4bench.run_session import fit_for_baseline, judged, measure, started
from ds4bench.store import attributions, baselines, ids, runs
from ds4bench.store.attributions import AttributionRun, BaselineRun, GroupRow, Step
from ds4bench.targets.kernels import BUNDLED, ENGINE, choice_of
from ds4bench.verdicts.extension import whole
from ds4bench.verdicts.rules.comparison import judges_times

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress
    from ds4bench.run_session import Prepared, TargetOptions

BASELINE_NAME = "engine-kernels"


class UnfitBaselineError(Exception):
    """The run with the engine's own kernels is nothing to compare with; its verdict says why."""

    def __init__(self, verdict: GateVerdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


class AttributionRunner:
    """One ``ds4bench attribute``. What ``state`` holds as done is not measured again."""

    def __init__(self, prepared: Prepared, target: TargetOptions, state: AttributionRun, progress: Progress) -> None:
        self.prepared, self.target, self.state, self.progress = prepared, target, state, progress
        self.wanted = Effect(state.wanted)
        self.table = switchable(target.name, ALL)
        self.serves = 0

    @property
    def groups(self) -> list[Group]:
        """The ops that are searched."""
        return [Group(row.name, tuple(row.ops)) for row in self.state.groups]

    async def run(self) -> Findings:
        """Measure what is left. Raises RunInterruptedError on Ctrl-C, UnfitBaselineError, and TargetError when the serve
        does not start with the engine's own kernels."""
        await self._baseline()
        if not self.state.called:
            await self._whole()
        while not isinstance(wanted := follow(search(self.groups, self.wanted), self._effects()), Findings):
            await self._step(self._record(wanted))
        if wanted.culprits and judges_times(self.prepared.gate.spec):
            await self._close(wanted)
        return wanted

    def _effects(self) -> dict[OpSet, Effect]:
        """By the ops that are searched: what the engine never calls makes no difference wherever it is."""
        searched = frozenset(op for group in self.groups for op in group.ops)
        return {frozenset(s.ops) & searched: Effect(s.effect) for s in self.state.steps if s.done and s.effect}

    async def _whole(self) -> None:
        """All ops together; then the search keeps to those that really ran."""
        everything = frozenset(op for group in self.groups for op in group.ops)
        if not self.state.steps:
            kernels = BUNDLED if self.state.asked["ops"] == ALL else f"ops={self.state.asked['ops']}"
            words = described(everything, self.table)
            self.state.steps.append(Step(kernels=kernels, words=words, ops=sorted(everything)))
        step = self.state.steps[0]
        if not step.done:
            await self._step(step)
        run = runs.load_begun(step.run)
        ran = _ops_that_ran(_use_of(run)) if run is not None else None
        if ran is not None and ran & everything:
            self.state.never_called = sorted(everything - ran)
            self.state.groups = [GroupRow(name=g.name, ops=list(g.ops)) for g in regrouped(everything & ran)]
        self.state.called = True
        attributions.save(self.state)

    def _record(self, ops: OpSet) -> Step:
        """The step of a configuration, begun before or new."""
        known = next((step for step in self.state.steps if not step.done and frozenset(step.ops) == ops), None)
        if known is None:
            known = self._new_step(ops)
            self.state.steps.append(known)
        return known

    def _new_step(self, ops: OpSet) -> Step:
        """Groups that are there whole go by their name. What the engine never calls may come along: it changes nothing."""
        there = ops | frozenset(self.state.never_called)
        wanted = ops | {group.name for group in self.table if ops & frozenset(group.ops)}
        parts = [part for part in parts_of(there, self.table) if part in wanted]
        return Step(kernels=choice_of(parts).text, words=described(there, self.table), ops=sorted(ops))

    async def _step(self, step: Step) -> None:
        """Measure one configuration and keep its effect. A serve that does not start with it is INVALID, not the end."""
        begun = time.monotonic()
        try:
            effect = await self._compared(step)
        except TargetError as error:
            effect = StepEffect(Effect.INVALID, str(error))
        finally:
            step.seconds += time.monotonic() - begun
            attributions.save(self.state)
        self._keep(step, effect)

    async def _compared(self, step: Step) -> StepEffect:
        verdict = await self._verdict(step)
        if drifted(verdict):
            self.progress.note("the machine is not as fast as when the baseline was measured: measured again, now")
            await self._new_baseline()
            verdict = await self._verdict(step)
        if drifted(verdict) and step.run is not None:
            step.earlier.append(step.run)
            step.run = None
            verdict = await self._verdict(step)
        return self._effect(verdict, step.baseline_run)

    async def _verdict(self, step: Step) -> GateVerdict:
        """Of the step's run, measured if need be, against the newest baseline."""
        record = self.state.baselines[-1]
        baseline = self._baseline_of(record.run)
        step.baseline_run = record.run
        run = runs.load_begun(step.run)
        if run is None or not self._complete(run):
            run = await self._measured(step, baseline)
        return judged(self.prepared.gate, run, baseline).verdict

    async def _measured(self, step: Step, baseline: Baseline) -> RunData:
        step.run = step.run or self.prepared.new_run_id()
        attributions.save(self.state)
        self._announce(f"{step.words} on the bundle")
        return await self._run(step.run, step.kernels, "candidate", baseline)

    def _announce(self, what: str) -> None:
        self.serves += 1
        self.progress.note(f"serve {self.serves}: {what}")

    def _complete(self, run: RunData) -> bool:
        return run.died is not None or whole(self.prepared.gate, run)

    async def _run(self, run_id: str, kernels: str, role: str, baseline: Baseline | None) -> RunData:
        """One run on a serve of its own, or the rest of it."""
        target = replace(self.target, serving=replace(self.target.serving, kernels=kernels))
        log_path = runs.run_folder(run_id) / "serve.log"
        async with started(target, log_path, run_id, self.progress) as serve:
            return await measure(
                self.prepared, serve, self.progress, run_id=run_id, role=role, resumed=runs.load_begun(run_id),
                baseline=baseline,
            )  # fmt: skip

    async def _baseline(self) -> None:
        if not any(record.done for record in self.state.baselines):
            await self._new_baseline()

    async def _new_baseline(self) -> BaselineRun:
        """Measure the engine on its own kernels, or the rest of it. Raises UnfitBaselineError."""
        if not self.state.baselines or self.state.baselines[-1].done:
            self.state.baselines.append(BaselineRun(run=self.prepared.new_run_id()))
            attributions.save(self.state)
        record = self.state.baselines[-1]
        self._announce("the engine on its own kernels")
        run = await self._run(record.run, ENGINE, "baseline", None)
        outcome = judged(self.prepared.gate, run, None)
        if not fit_for_baseline(self.prepared.gate, outcome):
            self.state.baselines.pop()
            attributions.save(self.state)
            raise UnfitBaselineError(outcome.verdict)
        record.done = True
        attributions.save(self.state)
        return record

    def _baseline_of(self, run_id: str) -> Baseline:
        return baselines.from_run(runs.load_run(run_id), BASELINE_NAME)

    def _effect(self, verdict: GateVerdict, baseline_run: str | None) -> StepEffect:
        alone = runs.load_run(baseline_run).verdict if baseline_run is not None else None
        assert alone is not None
        return effect_of(self.prepared.gate.spec, verdict, alone)

    def _keep(self, step: Step, effect: StepEffect) -> None:
        step.effect, step.sentence, step.rule = effect.effect.value, effect.sentence, effect.rule
        step.estimate, step.done = effect.estimate, True
        attributions.save(self.state)
        self.progress.note(f"{step.words}: {effect.effect.value}: {effect.sentence}")

    async def _close(self, found: Findings) -> None:
        """The engine against itself, now and when measured last: a drift must not be blamed on an op. Where it differs, each
        culprit is measured again, right after the new baseline; so is one that a single run has shown."""
        if self.state.closing_effect is None:
            before = self.state.baselines[-1].run
            record = await self._new_baseline()
            again = judged(self.prepared.gate, runs.load_run(record.run), self._baseline_of(before)).verdict
            effect = self._effect(again, before)
            judged(self.prepared.gate, runs.load_run(record.run), None)  # its own verdict is what later steps read
            moved = drifted(again) or effect.effect in (Effect.WORSE, Effect.BETTER)
            self.state.closing_effect = (Effect.WORSE if drifted(again) else effect.effect).value
            self.state.closing_sentence = again.sentence if drifted(again) else effect.sentence
            whole = frozenset(op for group in self.groups for op in group.ops)
            again_too = [c.ops for c in found.culprits if moved or c.ops == whole]  # else only one run has shown it
            self.state.closing = [self._new_step(ops) for ops in again_too]
            attributions.save(self.state)
        for step in self.state.closing:
            if not step.done:
                await self._step(step)


def new_state(prepared: Prepared, wanted: Effect, asked: dict[str, object], groups: list[Group]) -> AttributionRun:
    """The beginning of an attribution."""
    return AttributionRun(
        schema=attributions.SCHEMA, run_id=ids.new_id(prepared.name), gate=prepared.name,
        profile=prepared.gate.profile, wanted=wanted.value, asked=asked,
        groups=[GroupRow(name=group.name, ops=list(group.ops)) for group in groups],
    )  # fmt: skip


def _use_of(run: RunData) -> KernelUse | None:
    fingerprint = run.manifest.fingerprint
    return fingerprint.kernels if fingerprint is not None else None


def _ops_that_ran(use: KernelUse | None) -> frozenset[str] | None:
    """Ops that the engine called on the bundle; None where it does not tell."""
    if use is None or use.backends is not None:
        return None
    hooks = [hook for launch in use.launches for process in launch for hook in process.hooks]
    return frozenset(hook.op for hook in hooks if hook.calls) or None
