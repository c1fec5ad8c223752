"""A/A runs of one build with a restart before each, and the noise of every comparing rule from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds4bench.core import Fingerprint, Noise, RunData, RunManifest
from ds4bench.errors import SpecError, StoreError, TargetError
from ds4bench.run_session import (
    SAME_SERVE,
    Outcome,
    Prepared,
    TargetOptions,
    fit_for_baseline,
    judged,
    measure,
    outcome_of,
    serve_difference,
    started,
)
from ds4bench.spec.load import EffectiveGate
from ds4bench.store import baselines, runs
from ds4bench.verdicts.checks.machine import as_fast
from ds4bench.verdicts.evidence import gather
from ds4bench.verdicts.foresight import levels_of
from ds4bench.verdicts.rules.comparison import comparing_rules, spread

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress
    from ds4bench.verdicts.rules.comparison import ComparingRule


@dataclass(frozen=True)
class RuleNoise:
    """One rule's measured noise, in words too. ``refusal``: why its margin cannot be judged with it."""

    rule: str
    noise: Noise
    measured: str
    sight: str
    refusal: str | None


def refuse_early(gate: EffectiveGate, baseline: str, *, measured: bool) -> None:
    """Raises SpecError or StoreError for what would make the measurement of hours worthless: nothing to calibrate, sessions
    without a repeat to compare with, a baseline that is not there."""
    if not comparing_rules(gate.spec):
        raise SpecError(f"gate {gate.spec.name} has no rule that compares a time with a baseline: nothing to calibrate")
    if measured and gate.spec.repeats.count < 2:
        raise SpecError(f"gate {gate.spec.name} has one repeat, which shows no noise: give --repeats 2 or more")
    if baseline != baselines.HERE:
        baselines.load_baseline(baseline, gate.spec.name, gate.profile)


async def measure_sessions(
    prepared: Prepared, target: TargetOptions, count: int, progress: Progress
) -> list[RunData]:  # fmt: skip
    """``count`` runs, each on a freshly started serve. Raises TargetError for a serve that cannot be restarted, StoreError
    for a run that is not fit to measure noise with."""
    if target.name == "attach":
        raise TargetError("calibrate restarts the serve between its runs and cannot restart one that it did not launch")
    found = []
    for number in range(count):
        run_id = prepared.new_run_id()
        progress.note(f"session {number + 1} of {count}: run {run_id}")
        async with started(target, runs.run_folder(run_id) / "serve.log", run_id, progress) as serve:
            _refuse_faults(serve.endpoint.fingerprint)
            run = await measure(prepared, serve, progress, run_id=run_id, role="calibration")
        _refuse_faults(run.manifest.fingerprint)  # ops made wrong on purpose are known by now
        found.append(_fit(prepared.gate, judged(prepared.gate, run, None)))
    return found


def _refuse_faults(fingerprint: Fingerprint | None) -> None:
    if fingerprint is not None and fingerprint.faults:
        raise TargetError(
            f"calibrate refuses a serve with injected faults ({', '.join(fingerprint.faults)}): its noise would be kept for "
            "the serve without them"
        )


def stored_sessions(gate: EffectiveGate, run_ids: Sequence[str]) -> list[RunData]:
    """Runs that were made before, one session each; their verdicts stay as they are. Raises StoreError when they are not of
    this measurement, not sessions of one build on one machine, or not fit to measure noise with."""
    found = [runs.load_run(run_id) for run_id in run_ids]
    for run in found:
        if run.manifest.measurement_hash != gate.measurement_hash:
            raise StoreError(f"run {run.manifest.run_id} is another measurement than {gate.spec.name} ({gate.profile})")
    if len({run.manifest.run_id for run in found}) < len(found):
        raise StoreError("a run is named twice: it would show less noise than there is")
    _check_sessions([run.manifest for run in found])
    return [_fit(gate, outcome_of(gate, run, None)) for run in found]


def _check_sessions(manifests: Sequence[RunManifest]) -> None:
    """Raises StoreError for runs that show less noise than there is between two starts of a serve, or other noise."""
    starts: dict[str, str] = {}
    for manifest in manifests:
        target, fingerprint = manifest.target, manifest.fingerprint
        faults = fingerprint.faults if fingerprint is not None else []
        if target.get("name") == "attach":
            raise StoreError(
                f"run {manifest.run_id} is of an attached serve, which nobody restarted for it: it shows less noise than "
                "there is from session to session"
            )
        if target.get("tree"):  # its fingerprint does not tell the commit
            raise StoreError(
                f"run {manifest.run_id} is of `ds4bench ci`, in turns with another build: it tells nothing of sessions"
            )
        if faults:
            raise StoreError(
                f"run {manifest.run_id} was measured with injected faults ({', '.join(faults)}): its noise would be kept for "
                "the serve without them"
            )
        start = target.get("serve_start")  # older runs do not tell
        if start in starts:
            raise StoreError(
                f"runs {starts[start]} and {manifest.run_id} are of the same start of a serve: together they show less "
                "noise than there is from session to session"
            )
        if start is not None:
            starts[start] = manifest.run_id
        if detail := _difference(manifests[0].fingerprint, fingerprint):
            raise StoreError(
                f"run {manifest.run_id} is not of the same build on the same machine as run {manifests[0].run_id}: {detail}"
            )


def _difference(first: Fingerprint | None, other: Fingerprint | None) -> str | None:
    """In what two serves that were to be one differ."""
    if first is None or other is None:
        return "one of them never reached its serve" if first is not other else None
    kernels, now = (side.kernels.choice if side.kernels else None for side in (first, other))
    if kernels != now:
        return f"kernels was {kernels!r} and is {now!r}"
    return serve_difference(first, other, (*SAME_SERVE, "prefix_caching", "speculative"))


def noise_of(gate: EffectiveGate, sessions: Sequence[RunData]) -> list[RuleNoise]:
    """The noise of each comparing rule, and what it can see with it. Raises StoreError for too few sessions or values that
    are not there."""
    return [_rule_noise(rule, gate, sessions) for rule in comparing_rules(gate.spec)]


def unsteady(gate: EffectiveGate, sessions: Sequence[RunData]) -> list[str]:
    """A sentence for each session in which this machine is not shown to have been as fast as in the first, by the rule of
    ``machine_steady``. What was measured is noise all the same, but not of the build alone."""
    said, first = [], _probes(gate, sessions[0])
    for session in sessions[1:]:
        probes = _probes(gate, session)
        if not first or not probes:  # the serve does not run on this machine
            continue
        when, again = f"in run {sessions[0].manifest.run_id}", "measure again when it is gone"
        steady, sentence = as_fast(probes, first, gate.spec.validity.machine_drift, when, again)
        if not steady:
            said.append(
                f"run {session.manifest.run_id}: {sentence}: the noise holds what the machine changed, not what one build "
                "differs from session to session alone"
            )
    return said


def _probes(gate: EffectiveGate, run: RunData) -> list[float]:
    fingerprint = run.manifest.fingerprint
    if fingerprint is None or not fingerprint.local:
        return []
    return [batch.row.probe_ms for batch in gather(gate, run, None).batches if batch.row.probe_ms]


def _rule_noise(rule: ComparingRule, gate: EffectiveGate, sessions: Sequence[RunData]) -> RuleNoise:
    from ds4bench.stats import mde
    from ds4bench.stats.calibration import calibrate

    cells = gate.spec.matrix.cells()
    try:
        sides = [[row for _, row in gather(gate, run, None).answered()] for run in sessions]
        measured = calibrate(levels_of(rule, sides, cells))
    except ValueError as error:
        raise StoreError(f"rule {rule.name} cannot be calibrated: {error}") from None
    noise = Noise(
        sessions=measured.sessions, repeats=measured.repeats, repeat_cv=measured.repeat_cv,
        session_cv=measured.session_cv, session_cv_upper=measured.session_cv_upper, confidence=measured.confidence,
        created=runs.utc_now(), runs=[run.manifest.run_id for run in sessions],
    )  # fmt: skip
    seen = spread(noise, gate.spec.repeats.count, gate.spec.repeats.count)
    return RuleNoise(
        rule.name, noise, f"{rule.name}: {measured.sentence}", f"{rule.name}: {mde.sentence(seen, 'this noise')}",
        mde.refusal(rule.margin, seen, "this noise"),
    )  # fmt: skip


def _fit(gate: EffectiveGate, outcome: Outcome) -> RunData:
    if not fit_for_baseline(gate, outcome):
        raise StoreError(
            f"run {outcome.run.manifest.run_id} cannot show noise, it is {outcome.verdict.verdict}: "
            f"{outcome.verdict.sentence}"
        )
    return outcome.run
