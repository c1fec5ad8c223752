"""Was the machine quiet, and as fast as when the baseline was measured?"""

from __future__ import annotations

from collections.abc import Sequence

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.rules.comparison import comparing_rules
from ds4bench.verdicts.wording import percent


def machine_steady(evidence: Evidence) -> CheckResult:
    """This machine is as fast as when the baseline was measured, by a fixed CPU probe.

    A drift makes no run INVALID, but it forbids the comparison: a slower machine would look like a slower
    build, and a faster one would hide one. Only a serve on this machine is concerned, and only where one side was measured
    after the other: in turns (``ds4bench ci``) a drift meets both, and what is left of it is in the spread of the blocks.
    It must be shown: where the probe differs from batch to batch, because a neighbour comes and goes, equal means do not
    say that the times between the probes were equal too.
    """
    name, baseline = "machine_steady", evidence.baseline
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is None or not fingerprint.local:
        return not_applicable(name, "the serve does not run on this machine")
    if not comparing_rules(evidence.spec):
        return not_applicable(name, "no rule compares times with a baseline")
    if baseline is not None and baseline.interleaved_with == evidence.run.manifest.run_id:
        return not_applicable(name, "both sides were measured in turns")
    ours = [batch.row.probe_ms for batch in evidence.batches if batch.row.probe_ms]
    theirs = [batch.probe_ms for batch in baseline.batches if batch.probe_ms] if baseline is not None else []
    if not ours or not theirs:
        return not_applicable(name, "no CPU probe of a comparable baseline")
    when = "when the baseline was measured"
    again = "measure again, with a new baseline, when it is gone"
    steady, sentence = as_fast(ours, theirs, evidence.spec.validity.machine_drift, when, again)
    return ok(name, sentence) if steady else unverified(name, sentence)


def as_fast(
    ours: Sequence[float], theirs: Sequence[float], allowed: float, when: str, again: str
) -> tuple[bool, str]:  # fmt: skip
    """Whether the CPU probes of two runs show one speed up to ``allowed``, and the sentence that says so. ``when`` the other
    was measured, ``again``: what helps where something shares the cores. Raises ValueError when a run has no probe."""
    from ds4bench.stats.machine_speed import speed

    found = speed(ours, theirs)
    word = "slower" if found.ratio >= 1 else "faster"
    change = f"{percent(abs(found.ratio - 1))} {word}"
    sentence = f"this machine runs the fixed CPU probe {change} than {when}"
    if found.within(allowed):
        return True, sentence
    if found.beyond(allowed):
        return False, sentence
    half = percent((found.high - found.low) / 2)
    return False, (
        f"{sentence}, but it differs from batch to batch (+-{half}; {percent(allowed)} is allowed): something shares the "
        f"cores, {again}"
    )


def machine_quiet(evidence: Evidence) -> CheckResult:
    """Nothing else used the CPU cores that the launched serve and the client may use while they were measured.

    Where they are pinned, work on the other cores does not count. A busy neighbour slows serve and client alike, and no
    statistics over the repeats of one session can tell it from a slower build. The run is not INVALID, but neither it nor
    a comparison with it decides anything.
    """
    name, fingerprint = "machine_quiet", evidence.run.manifest.fingerprint
    cores = fingerprint.hardware.get("cores") if fingerprint is not None else None
    known = [(batch.row.foreign_cores, batch.row.wall_s) for batch in evidence.batches]
    busy = [(foreign, wall) for foreign, wall in known if foreign is not None]
    if not cores or not busy:
        return not_applicable(name, "the serve was not launched by ds4bench on this machine")
    foreign = sum(f * wall for f, wall in busy) / sum(wall for _, wall in busy)
    sentence = f"other processes used {foreign:.2f} of {cores} cores while this was measured"
    if foreign / cores > evidence.spec.validity.max_foreign_cpu_share:
        return unverified(name, f"{sentence}; stop them and measure again")
    return ok(name, sentence)
