"""What ``ratio`` and ``geomean_ratio`` share: the estimate, its verdict, single cells after Holm, and the sentences.

The rule is ``stats/decision.py``: PASS when a worsening beyond the margin is excluded, FAIL when the estimate is beyond the
margin *and* "no worse" is rejected. Session noise is the one that ``ds4bench calibrate`` measured where the baseline has
it, else the one that the gate file assumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Cell, Estimate, Noise, RequestRow, RuleResult, Verdict
from ds4bench.measures import judged_metric
from ds4bench.verdicts.wording import METRICS, change, limit, percent

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.rules import GeomeanRatioRule, RatioRule
    from ds4bench.stats.decision import Levels, RatioDecision, Spread
    from ds4bench.verdicts.evidence import Evidence

    ComparingRule = RatioRule | GeomeanRatioRule

Table = Sequence[Sequence[float]]
"""[repeats, strata]: what a strata is, the rule's kind says."""


@dataclass(frozen=True)
class Comparison:
    """A rule with what it is judged by: the baseline, the metric, the noise between sessions, the levels of this look.

    ``metric`` is the rule's, or what stands in for it on both sides; then ``stand_in`` says so, a clause.
    """

    rule: ComparingRule
    metric: str
    stand_in: str
    baseline: Baseline
    noise: Noise | None
    session_cv: float
    levels: Levels
    paired: bool

    @classmethod
    def of(cls, rule: ComparingRule, evidence: Evidence, baseline: Baseline) -> Comparison:
        """The comparison of a run with its baseline."""
        from ds4bench.stats.decision import levels

        paired = baseline.interleaved_with == evidence.run.manifest.run_id
        ours = [row for _, row in evidence.answered()]
        metric = judged_metric(rule.metric, ours, baseline.requests)
        return cls(
            rule=rule,
            metric=metric,
            stand_in="" if metric == rule.metric else _stands_in(rule.metric, metric, ours, baseline.requests),
            baseline=baseline,
            noise=baseline.noise.get(rule.name),
            session_cv=session_cv(rule, baseline, paired=paired),
            levels=levels(evidence.spec.repeats.looks),
            paired=paired,
        )

    def estimate(self, ours: Table, theirs: Table) -> Estimate:
        """Candidate / baseline with the interval of this look. Raises ValueError for values that cannot be compared."""
        from ds4bench.stats.paired_ratio import paired_ratio
        from ds4bench.stats.ratio import ratio_estimate

        confidence = self.levels.confidence
        if self.paired:
            return paired_ratio(ours, theirs, session_cv=self.session_cv, confidence=confidence)
        return ratio_estimate(ours, theirs, session_cv=self.session_cv, confidence=confidence)

    def decision(self, estimate: Estimate, margin: float) -> RatioDecision:
        """PASS, FAIL or INCONCLUSIVE of an estimate against a margin, with its p values."""
        from ds4bench.stats.decision import verdict_of_ratio

        return verdict_of_ratio(
            estimate, margin, session_cv=self.session_cv, direction=self.rule.direction,
            fail_level=self.levels.fail_level,
        )  # fmt: skip

    def overall(self, estimate: Estimate, *, detail: str = "", too_noisy: str | None = None) -> RuleResult:
        """The endpoint over all cells. ``too_noisy``: what keeps it from a PASS, a clause; ``detail``: more about it."""
        rule, decision = self.rule, self.decision(estimate, self.rule.margin)
        verdict, needed, hint = decision.verdict, None, ""
        if verdict is Verdict.PASS and too_noisy:
            verdict = Verdict.INCONCLUSIVE
        elif verdict is Verdict.INCONCLUSIVE:
            needed, hint = self._what_would_decide(estimate)
        sentence = (
            f"{change(self.metric, estimate)} than {self.baseline.name}{detail}{self.stand_in}; "
            f"margin {limit(rule.margin)}; "
            f"noise {percent(estimate.noise_cv, 1)}{f'; {too_noisy}' if too_noisy else ''}: {verdict}{hint}"
        )
        if verdict is not Verdict.FAIL and (refused := self._refusal(estimate)):
            verdict, sentence = Verdict.INCONCLUSIVE, f"{refused}: INCONCLUSIVE"
        return RuleResult(
            rule=rule.name, verdict=verdict, sentence=sentence, margin=rule.margin, estimate=estimate,
            repeats_needed=needed, p=decision.p_no_worse,
        )  # fmt: skip

    def cells(self, estimates: Sequence[tuple[Cell, Estimate]], margin: float) -> list[RuleResult]:
        """Each cell alone against its wider limit, a family of tests (Holm). It can only FAIL the gate: not primary."""
        from ds4bench.stats.holm import holm_adjust

        decisions = [self.decision(estimate, margin) for _, estimate in estimates]
        adjusted = holm_adjust([decision.p_no_worse for decision in decisions])
        results = []
        for (cell, estimate), decision, p in zip(estimates, decisions, adjusted, strict=True):
            verdict = decision.verdict
            if verdict is Verdict.FAIL and p > self.levels.fail_level:
                verdict = Verdict.INCONCLUSIVE
            text = f"{change(self.metric, estimate)} than {self.baseline.name}; limit of a cell {limit(margin)}"
            results.append(
                RuleResult(
                    rule=self.rule.name, verdict=verdict, cell=cell.id, primary=False, margin=margin, estimate=estimate,
                    sentence=f"{cell.id}: {text}; p {p:.2g} (Holm): {verdict}", p=decision.p_no_worse,
                )
            )  # fmt: skip
        return results

    def _what_would_decide(self, estimate: Estimate) -> tuple[int | None, str]:
        """The number of repeats that would decide, and the end of the sentence that says so."""
        from ds4bench.stats.decision import repeats_to_decide
        from ds4bench.stats.ratio import session_half_width

        rule = self.rule
        for new_baseline in (False, True):
            needed = repeats_to_decide(
                estimate, rule.margin, session_cv=self.session_cv, direction=rule.direction, new_baseline=new_baseline
            )
            if needed is not None and not new_baseline:
                return needed, f"; {needed} repeats would decide (--repeats {needed})"
            if needed is not None:
                return None, f"; only {needed} repeats here and in a new baseline would decide"
        sessions = percent(math.expm1(session_half_width(self.session_cv)), 1)
        return None, f"; no number of repeats would decide, it is nearer to the margin than {sessions} of session noise"

    def _refusal(self, estimate: Estimate) -> str | None:
        """Why this margin cannot be judged with the noise that was calibrated; None without a calibration."""
        from ds4bench.stats.mde import refusal

        if self.noise is None:
            return None
        calibrated = spread(self.noise, estimate.candidate_repeats, estimate.baseline_repeats)
        return refusal(self.rule.margin, calibrated, calibrated_noise(self.noise))


def session_cv(rule: ComparingRule, baseline: Baseline, *, paired: bool = False) -> float:
    """The measured session noise where the baseline has one for this rule, else the assumed one of the gate file.

    ``paired``: baseline and candidate were measured in turns, which has a figure of its own.
    """
    if paired and rule.interleaved_cv is not None:
        return rule.interleaved_cv
    noise = baseline.noise.get(rule.name)
    return rule.session_cv if noise is None else noise.session_cv_upper


def spread(noise: Noise, candidate_repeats: int, baseline_repeats: int) -> Spread:
    """The error of a ratio with calibrated noise."""
    from ds4bench.stats.decision import Spread

    return Spread(noise.repeat_cv, candidate_repeats, baseline_repeats, noise.session_cv_upper)


def calibrated_noise(noise: Noise) -> str:
    """How sentences call it."""
    return f"the noise of {noise.sessions} calibrated sessions"


def comparing_rules(spec: GateSpec) -> list[ComparingRule]:
    """The gate's rules that judge a ratio."""
    return [rule for rule in spec.rules if rule.kind in ("ratio", "geomean_ratio")]


def judges_times(spec: GateSpec) -> bool:
    """Whether times count, which drift with the machine and with what else it does, and not only what was answered."""
    return bool(comparing_rules(spec)) or spec.declared.timed


def _stands_in(metric: str, instead: str, ours: Sequence[RequestRow], theirs: Sequence[RequestRow]) -> str:
    """Which serve is the reason that another metric is judged than the rule's, for the sentence."""
    silent = [judged_metric(metric, side) != metric for side in (ours, theirs)]
    who = "both serves send" if all(silent) else "the serve sends" if silent[0] else "the baseline's serve sends"
    return f", {METRICS[instead].name} from the first chunk on ({who} no running usage)"


def undecided(rule: ComparingRule, why: str) -> RuleResult:
    """A comparison that could not be made."""
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE", margin=rule.margin)


def incomparable(rule: ComparingRule, baseline: Baseline, error: ValueError) -> RuleResult:
    """A comparison whose values are not there."""
    return undecided(rule, f"{METRICS[rule.metric].name} cannot be compared with {baseline.name}: {error}")
