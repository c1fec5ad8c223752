"""The rules of a gate: what each says about a valid, complete run, in one sentence. One file a family of kinds.

A new kind: its model in ``spec/rules.py``, ``judge(rule, evidence) -> list[RuleResult]`` in a file here, a line in
``JUDGES``; with ``stop(rule, evidence) -> Stop | None`` and a line in ``STOPS`` (and ``early_stop`` in its model) if it can
end a run between two batches. ``evidence.baseline`` is None unless comparable, ``evidence.refusal`` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ds4bench.core import RuleResult
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.rules import (
    agreement,
    geomean_ratio,
    limit,
    paired_items,
    points,
    ratio,
    sameness,
    scaling,
    score,
    zero_failures,
)
from ds4bench.verdicts.stop import Stop

JUDGES: dict[str, Callable[[Any, Evidence], list[RuleResult]]] = {
    "ratio": ratio.judge,
    "geomean_ratio": geomean_ratio.judge,
    "zero_failures": zero_failures.judge,
    "score": score.judge,
    "recall": score.judge_recall,
    "limit": limit.judge,
    "paired_items": paired_items.judge,
    "points": points.judge,
    "scaling": scaling.judge,
    "agreement": agreement.judge,
    "sameness": sameness.judge,
}
STOPS: dict[str, Callable[[Any, Evidence], Stop | None]] = {
    "score": score.stop,
    "paired_items": paired_items.stop,
}


def judge(evidence: Evidence) -> list[RuleResult]:
    """Results of all rules, in the order of the gate file; a rule over all cells may give one a cell besides."""
    return [result for rule in evidence.spec.rules for result in JUDGES[rule.kind](rule, evidence)]
