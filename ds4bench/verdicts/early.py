"""May a run end before its plan does, because its gate is decided already? Asked between two batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.core import Baseline, RunData, Verdict
from ds4bench.verdicts.comparability import comparable
from ds4bench.verdicts.evidence import gather
from ds4bench.verdicts.rules import STOPS

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.load import EffectiveGate


def may_stop(spec: GateSpec) -> bool:
    """Whether a rule of the gate can end a run early at all."""
    return any(getattr(rule, "early_stop", False) for rule in spec.rules)


def decided_early(gate: EffectiveGate, run: RunData, baseline: Baseline | None) -> str | None:
    """Why the run may end now; None while it must go on. Pure.

    One rule that is certain to FAIL decides the gate; else every rule that can stop must be decided.
    """
    usable = baseline if baseline is not None and not comparable(run.manifest, baseline) else None
    evidence = gather(gate, run, usable)
    rules = [rule for rule in gate.spec.rules if getattr(rule, "early_stop", False)]
    if not rules or not evidence.batches:
        return None
    stops = [STOPS[rule.kind](rule, evidence) for rule in rules]
    for stop in stops:
        if stop is not None and stop.verdict is Verdict.FAIL:
            return stop.reason
    return "; ".join(stop.reason for stop in stops if stop) if all(stops) else None
