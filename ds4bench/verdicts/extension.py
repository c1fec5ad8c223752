"""The one pre-declared extension of a gate whose first look was INCONCLUSIVE (``repeats: {count, extend_to}``)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ds4bench.core import GateVerdict, RunData, Verdict
from ds4bench.verdicts.evidence import gather

if TYPE_CHECKING:
    from ds4bench.spec.load import EffectiveGate


def as_measured(gate: EffectiveGate, run: RunData) -> EffectiveGate:
    """The gate that the run followed: with ``extend_to`` repeats once a batch of the extension has been measured."""
    count, most = gate.spec.repeats.count, gate.spec.repeats.extend_to
    begun = any(row.phase == "measure" and row.repeat >= count for row in run.batches)
    return gate if most is None or not begun else extended(gate)


def whole(gate: EffectiveGate, run: RunData) -> bool:
    """Whether nothing is left to measure: every cell has all repeats of the gate that the run followed, those of an
    extension that has begun included, or the run was stopped because its gate was decided."""
    return gather(as_measured(gate, run), run, None).complete


def extended(gate: EffectiveGate) -> EffectiveGate:
    """The gate with all the repeats that its extension allows; still judged as the second of two looks."""
    repeats = gate.spec.repeats
    longer = repeats.model_copy(update={"count": max(repeats.count, repeats.extend_to or 0)})
    return replace(gate, spec=gate.spec.model_copy(update={"repeats": longer}))


def extension_due(gate: EffectiveGate, verdict: GateVerdict) -> bool:
    """Whether more repeats were declared and the verdict is open for want of them, not for another reason."""
    repeats = gate.spec.repeats
    if repeats.extend_to is None or repeats.extend_to <= repeats.count or verdict.verdict is not Verdict.INCONCLUSIVE:
        return False
    return any(rule.primary and rule.estimate and rule.verdict is Verdict.INCONCLUSIVE for rule in verdict.rules)
