"""What a commit is not blamed for: absolute rules that the commit before it breaks too. Pure.

An absolute rule asks no baseline: one of an absolute kind, or the floor of a rule that compares (``RuleResult.absolute``).
"""

from __future__ import annotations

import msgspec

from ds4bench.core import GateVerdict, RuleResult, Verdict
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.rules import ABSOLUTE_KINDS
from ds4bench.verdicts.decide import combine


def breaks_absolute_rule(spec: GateSpec, verdict: GateVerdict) -> bool:
    """Whether a FAIL rests, perhaps among others, on a rule that asks no baseline, so that it blames nobody yet."""
    names = _absolute(spec)
    return verdict.verdict is Verdict.FAIL and any(
        rule.verdict is Verdict.FAIL and _is_absolute(rule, names) for rule in verdict.rules
    )


def without_what_base_fails(spec: GateSpec, head: GateVerdict, base: GateVerdict, label: str) -> GateVerdict:
    """The verdict of head when every absolute rule that the base, called ``label``, fails as well is INCONCLUSIVE.

    A rule that head alone fails stays a FAIL, as does a comparison.
    """
    if not breaks_absolute_rule(spec, head):
        return head
    names = _absolute(spec)
    both = {
        (rule.rule, rule.cell): rule
        for rule in base.rules
        if rule.verdict is Verdict.FAIL and _is_absolute(rule, names)
    }
    rules = [
        _excused(rule, both.get((rule.rule, rule.cell)) if _is_absolute(rule, names) else None, label)
        for rule in head.rules
    ]
    verdict, sentence = combine(rules)
    return msgspec.structs.replace(head, verdict=verdict, sentence=sentence, rules=rules)


def _excused(rule: RuleResult, base: RuleResult | None, label: str) -> RuleResult:
    """Primary, whatever the rule is: it must keep the gate from a PASS."""
    if rule.verdict is not Verdict.FAIL or base is None:
        return rule
    end = f": {Verdict.FAIL}"
    sentence = f"base {label} fails it too: {base.sentence.removesuffix(end)}; here {rule.sentence.removesuffix(end)}"
    return msgspec.structs.replace(
        rule, verdict=Verdict.INCONCLUSIVE, primary=True, sentence=f"{sentence}: {Verdict.INCONCLUSIVE}"
    )


def _is_absolute(rule: RuleResult, names: set[str]) -> bool:
    return rule.absolute or rule.rule in names


def _absolute(spec: GateSpec) -> set[str]:
    return {rule.name for rule in spec.rules if rule.kind in ABSOLUTE_KINDS}
