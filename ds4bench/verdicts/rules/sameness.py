"""``sameness``: what comes out of the prefix cache is what was computed, by the logprobs of the same prompts cold and cached.

A stale state inside a block moves logprobs, mostly not answers. How much a sound serve's cached reply may differ from its
cold one depends on how the serve cuts a prompt into steps, so the baseline says it: FAIL by Fisher's exact test (R. A.
Fisher, 1935) on how many replies were the same on either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ds4bench.core import RuleResult, ScriptRow, Verdict
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import SamenessRule

SCORE = "same_when_cached"


def judge(rule: SamenessRule, evidence: Evidence) -> list[RuleResult]:
    """One result over all cells; SKIPPED where nothing can be said."""
    ours, baseline = _scores(evidence.scripts()), evidence.baseline
    if not ours:
        return [_skipped(rule, "no prompt was sent again and served from the cache with its logprobs")]
    said = f"{percent(sum(ours) / len(ours))} of {len(ours)} replies out of the cache are the cold ones"
    if baseline is None:
        return [_result(rule, Verdict.INCONCLUSIVE, f"{said}; {'; '.join(evidence.refusal) or 'no baseline'}")]
    theirs = _scores(baseline.scripts)
    if not theirs:
        return [_skipped(rule, f"{said}; {baseline.name} does not tell")]
    share = sum(theirs) / len(theirs)
    said += f", {percent(share)} of {len(theirs)} with {baseline.name}"
    if share < rule.least_same:
        return [_skipped(rule, f"{said}: this serve computes the rest of a cached prompt in other steps")]
    p = _p(ours, theirs)
    if p <= rule.fail_alpha:
        return [
            _result(rule, Verdict.FAIL, f"{said} (p {p:.2g}): what the cache gives back is not what was computed", p)
        ]
    if sum(ours) / len(ours) >= rule.least_same:
        return [_result(rule, Verdict.PASS, said, p)]
    return [_result(rule, Verdict.INCONCLUSIVE, f"{said} (p {p:.2g}); more repeats would decide", p)]


def _p(ours: list[float], theirs: list[float]) -> float:
    """One-sided: as few the same on our side, if both sides were alike."""
    import numpy as np
    from scipy.stats import fisher_exact

    same, before = round(sum(ours)), round(sum(theirs))
    table = np.array([[same, len(ours) - same], [before, len(theirs) - before]])
    return float(fisher_exact(table, alternative="less").pvalue)


def _scores(scripts: Iterable[ScriptRow]) -> list[float]:
    return [script.answer.scores[SCORE] for script in scripts if script.answer and SCORE in script.answer.scores]


def _skipped(rule: SamenessRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.SKIPPED, sentence=f"{why}: SKIPPED", primary=False)


def _result(rule: SamenessRule, verdict: Verdict, sentence: str, p: float | None = None) -> RuleResult:
    return RuleResult(
        rule=rule.name, verdict=verdict, sentence=f"{sentence}: {verdict}", p=p, fail_alpha=rule.fail_alpha
    )
