"""From the verdict of a step to its effect: what changed against the engine's own kernels, by the gate's own rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ds4bench.attribution.search import Effect
from ds4bench.core import CheckStatus, Estimate, GateVerdict, RuleResult, Verdict
from ds4bench.spec.gate import GateSpec
from ds4bench.verdicts.rules.comparison import comparing_rules

DRIFT_CHECK = "machine_steady"
"""Unverified, it says that the machine is no longer as fast as when the baseline was measured."""


@dataclass(frozen=True)
class StepEffect:
    """An effect with the sentence that shows it, and the ratio candidate / baseline where a rule has one."""

    effect: Effect
    sentence: str
    rule: str | None = None
    estimate: Estimate | None = None


def effect_of(spec: GateSpec, step: GateVerdict, baseline: GateVerdict) -> StepEffect:
    """The effect of a step; ``baseline`` is the verdict of the baseline run with nothing to compare with: a limit that the
    engine breaks with its own kernels too is no difference."""
    if step.verdict is Verdict.INVALID:
        return StepEffect(Effect.INVALID, step.sentence)
    unsure = step.verdict in (Verdict.INCONCLUSIVE, Verdict.SKIPPED)
    if unsure:
        return _shown(Effect.UNSURE, _leading(step.rules), step.sentence)
    broken_before = {(rule.rule, rule.cell) for rule in _failed(baseline.rules)}
    new = [rule for rule in _failed(step.rules) if (rule.rule, rule.cell) not in broken_before]
    if new:
        return _shown(Effect.WORSE, new[0])
    open_rules = [rule for rule in step.rules if rule.primary and rule.verdict is Verdict.INCONCLUSIVE]
    if open_rules:
        return _shown(Effect.UNSURE, open_rules[0])
    better = next((rule for rule in step.rules if _is_better(spec, rule)), None)
    if better is not None:
        return _shown(Effect.BETTER, better)
    return _shown(Effect.SAME, _leading(step.rules), step.sentence)


def drifted(verdict: GateVerdict) -> bool:
    """Whether it is the machine that keeps a step from being compared: it wants a new baseline, measured now."""
    if verdict.verdict is Verdict.INVALID:
        return False
    return any(check.name == DRIFT_CHECK and check.status is CheckStatus.UNVERIFIED for check in verdict.checks)


def _is_better(spec: GateSpec, rule: RuleResult) -> bool:
    """An improvement beyond the margin, by the rule that shows a worsening turned round: the interval excludes none."""
    directions = {known.name: known.direction for known in comparing_rules(spec)}
    if rule.estimate is None or rule.margin is None or not rule.primary or rule.rule not in directions:
        return False
    better, weakest = 1 / rule.estimate.ratio, 1 / rule.estimate.high
    if directions[rule.rule] == "higher_is_better":
        better, weakest = rule.estimate.ratio, rule.estimate.low
    return better > 1 + rule.margin and weakest > 1


def _failed(rules: Iterable[RuleResult]) -> list[RuleResult]:
    """Failed rules, those over all cells before single cells."""
    return sorted((rule for rule in rules if rule.verdict is Verdict.FAIL), key=lambda rule: not rule.primary)


def _leading(rules: Iterable[RuleResult]) -> RuleResult | None:
    """The rule that says most about a step in which none failed: a primary one, with a ratio if there is any."""
    primary = [rule for rule in rules if rule.primary]
    return next((rule for rule in primary if rule.estimate is not None), primary[0] if primary else None)


def _shown(effect: Effect, rule: RuleResult | None, sentence: str | None = None) -> StepEffect:
    if rule is None:
        return StepEffect(effect, sentence or "")
    text = (sentence or rule.sentence).removesuffix(f": {rule.verdict}")
    return StepEffect(effect, text, rule.rule, rule.estimate)
