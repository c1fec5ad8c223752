"""``score`` and ``recall``: the mean of a score of the answers against an absolute threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ds4bench.core import RequestRow, RuleResult, Verdict
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.stop import Stop
from ds4bench.verdicts.wording import limit, percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import RecallRule, ScoreRule

_ROUNDING = 1e-9
"""A mean of many 0.9 may be a hair under 0.9."""


def judge(rule: ScoreRule, evidence: Evidence) -> list[RuleResult]:
    """Mean of ``rule.score`` over all answers that should have it, or those ``among`` them; needs no baseline."""
    if rule.random_weights == "skip" and evidence.random_weights:
        return [_skipped(rule.name, f"{rule.score}: not applicable (random weights)")]
    scores, asked = _scores(rule.score, evidence)
    if rule.among is None or len(scores) < max(asked, 1):
        return [_against(rule.name, rule.score, scores, asked, rule.threshold, "")]
    chosen, known = _scores(rule.among, evidence)
    if len(chosen) < known or known != asked:
        return [_undecided(rule, f"only {len(chosen)} of {asked} answers say whether they count ({rule.among})")]
    kept = [score for score, counts in zip(scores, chosen, strict=True) if counts > 0]
    if not kept:
        return [_undecided(rule, f"none of {asked} answers counts ({rule.among} is 0 in all)")]
    why = f"; counted are those of {asked} with {rule.among}"
    return [_against(rule.name, rule.score, kept, len(kept), rule.threshold, why)]


def judge_recall(rule: RecallRule, evidence: Evidence) -> list[RuleResult]:
    """Mean recall of the sentinel codes over all answers."""
    if evidence.random_weights:
        return [_skipped(rule.name, "recall of the codes: not applicable (random weights)")]
    scores, asked = _scores("recall", evidence)
    told = not evidence.spec.request.ignore_eos  # else every reply ends at max_tokens, a finished answer too
    cut = sum(_cut_before_the_codes(row) for _, row in evidence.answered()) if told else 0
    why = f"; {cut} answers ended at max_tokens before all codes were given" if cut else ""
    return [_against(rule.name, "recall of the codes", scores, asked, rule.threshold, why)]


def stop(rule: ScoreRule, evidence: Evidence) -> Stop | None:
    """Curtailment: the outcome once no score of the remaining items, in 0..1, can change it.

    It is the outcome of the whole run with certainty, so it costs no error rate. Only for cells of items.
    """
    items = evidence.spec.matrix.items()
    if items is None:
        return None
    planned = items * evidence.spec.repeats.count
    scores, _ = _scores(rule.score, evidence)
    total, left = math.fsum(scores), planned - len(scores)
    needed = rule.threshold * planned - _ROUNDING * planned
    done = f"after {len(scores)} of {planned} items {rule.score}"
    if total + left < needed:
        return Stop(Verdict.FAIL, f"{done} cannot reach {limit(rule.threshold)} any more")
    if total >= needed:
        return Stop(Verdict.PASS, f"{done} cannot fall under {limit(rule.threshold)} any more")
    return None


def _scores(name: str, evidence: Evidence) -> tuple[list[float], int]:
    """(values, number of answers that should have one): of scripts where a script has it, else of requests."""
    scripts = evidence.scripts()
    if any(script.answer is not None and name in script.answer.scores for script in scripts):
        values = [script.answer.scores[name] for script in scripts if script.answer and name in script.answer.scores]
        return values, len(scripts)
    rows = [row for _, row in evidence.answered()]
    return [row.answer.scores[name] for row in rows if row.answer and name in row.answer.scores], len(rows)


def _against(name: str, what: str, scores: list[float], asked: int, threshold: float, why: str) -> RuleResult:
    if len(scores) < max(asked, 1):
        sentence = f"{what}: only {len(scores)} of {asked} answers were scored: INCONCLUSIVE"
        return RuleResult(rule=name, verdict=Verdict.INCONCLUSIVE, sentence=sentence)
    mean = math.fsum(scores) / len(scores)
    verdict = Verdict.PASS if mean >= threshold - _ROUNDING else Verdict.FAIL
    sentence = (
        f"{what} {percent(mean, 1)} over {len(scores)} answers; at least {limit(threshold)} is asked{why}: {verdict}"
    )
    return RuleResult(rule=name, verdict=verdict, sentence=sentence)


def _undecided(rule: ScoreRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{rule.score}: {why}: INCONCLUSIVE")


def _skipped(name: str, sentence: str) -> RuleResult:
    return RuleResult(rule=name, verdict=Verdict.SKIPPED, sentence=sentence, primary=False)


def _cut_before_the_codes(row: RequestRow) -> bool:
    recall = row.answer.scores.get("recall", 1.0) if row.answer is not None else 1.0
    return row.result.finish_reason == "length" and recall < 1
