"""The rules that a gate file may name: one model a kind. How each judges is in ``verdicts/rules/``, a file a family.

A new kind: a model here and in ``Rule``, its judge in ``verdicts/rules/`` and in that package's table. The kinds
``paired_items`` (same items, candidate against baseline) and ``points`` (absolute points against the baseline) have their
places here and in ``verdicts/rules/paired_items.py`` and ``verdicts/rules/points.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ds4bench.spec.base import Share, SpecModel

RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Metric = Literal["ttft_s", "ttfa_s", "e2e_s", "tpot_ms", "tpot_decode_ms"]
"""``tpot_ms`` stands in for ``tpot_decode_ms`` where a serve sends no running usage (``measures.judged_metric``)."""
Direction = Literal["lower_is_better", "higher_is_better"]
Margin = Annotated[float, Field(gt=0, le=1)]
WideMargin = Annotated[float, Field(gt=0, le=10)]
Alpha = Annotated[float, Field(gt=0, lt=0.5)]
"""Error rate of a test, one-sided."""
SessionCv = Annotated[float, Field(ge=0, le=0.5)]
"""How much one build differs from itself from one session (start of the serve, hour of the day) to the next."""


class RatioRule(SpecModel):
    """Candidate / baseline of one request metric, with an interval, against a margin.

    ``margin`` is the relative worsening that is tolerated over all cells, ``per_cell_margin`` a wider hard
    limit for each cell alone. ``session_cv`` is how much the same build differs from one session (start of
    the serve, hour of the day) to the next: repeats inside one session cannot show it, so it is stated here.
    ``interleaved_cv`` takes its place where both builds were measured in turns (``ds4bench ci``), so that the hour is
    the same for both and only the starts of two serves differ; without it ``session_cv`` holds there too.
    """

    kind: Literal["ratio"]
    name: RuleName
    metric: Metric
    margin: Margin
    per_cell_margin: WideMargin | None = None
    direction: Direction = "lower_is_better"
    session_cv: SessionCv
    interleaved_cv: SessionCv | None = None


class GeomeanRatioRule(SpecModel):
    """One endpoint over all cells: the geometric mean of candidate / baseline of the cells' run means.

    Runs are paired by repeat. ``margin`` is the worsening that is tolerated, and must be twice the measured noise (of five
    runs, or what more of them resolve) to pass. A single cell fails by ``cell_margin`` after Holm's correction over the
    cells. ``session_cv`` and ``interleaved_cv`` are those of ``RatioRule``.
    """

    kind: Literal["geomean_ratio"]
    name: RuleName
    metric: Metric
    margin: Margin
    cell_margin: WideMargin
    direction: Direction = "lower_is_better"
    session_cv: SessionCv
    interleaved_cv: SessionCv | None = None


class ZeroFailuresRule(SpecModel):
    """No request may fail."""

    kind: Literal["zero_failures"]
    name: RuleName = "zero_failures"


class ScoreRule(SpecModel):
    """The mean of one score of the answers must reach a threshold; needs no baseline.

    ``among`` names another score: only answers in which that is above 0 count, so that those which could not lose ``score``
    do not hide the ones that did. ``early_stop``, where cells are batches of items, ends the run between two of them once no
    remaining item can change the outcome.
    """

    kind: Literal["score"]
    name: RuleName
    score: RuleName
    threshold: Share
    among: RuleName | None = None
    random_weights: Literal["skip", "judge"] = "skip"
    early_stop: bool = False

    @model_validator(mode="after")
    def _stops_over_all(self) -> ScoreRule:
        if self.among is not None and self.early_stop:
            raise ValueError("early_stop needs all answers: leave among out")
        return self


class RecallRule(SpecModel):
    """Mean share of the sentinel codes that the answers give back; judged apart from latency."""

    kind: Literal["recall"]
    name: RuleName = "recall"
    threshold: Share


Measure = Literal[
    "ttft_mean_s",
    "ttft_median_s",
    "ttft_p99_s",
    "ttft_max_s",
    "tpot_mean_ms",
    "tpot_median_ms",
    "tpot_p99_ms",
    "itl_p95_ms",
    "itl_p99_ms",
    "itl_max_ms",
    "prefill_tok_s",
    "decode_tok_s",
    "output_tok_s",
    "output_tok_s_steady",
    "delivered_concurrency",
    "acceptance_rate",
    "acceptance_length",
    "hit_rate",
    "hit_of_ideal",
    "failures",
]
"""Names in ``ds4bench.measures.CellMeasures``."""


class LimitRule(SpecModel):
    """A measure of every cell must stay at or under ``at_most``, or reach ``at_least``; needs no baseline.

    ``missing`` says what a cell means that has no such measure, for example no acceptance on a serve that does not draft.
    """

    kind: Literal["limit"]
    name: RuleName
    measure: Measure
    at_most: Annotated[float, Field(ge=0)] | None = None
    at_least: Annotated[float, Field(ge=0)] | None = None
    missing: Literal["inconclusive", "skip"] = "inconclusive"

    @model_validator(mode="after")
    def _one_limit(self) -> LimitRule:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("needs one of at_most and at_least")
        return self


class PointsRule(SpecModel):
    """A share of every cell against the baseline's, in absolute points: may fall by ``margin`` (0.05 is five points).

    By the 90 % interval over repeats of each cell, for a FAIL also by a test after Holm over the cells; the worst decides.
    """

    kind: Literal["points"]
    name: RuleName
    measure: Literal["hit_rate", "acceptance_rate"]
    margin: Margin


class ScalingRule(SpecModel):
    """A measure of every cell with c > 1 must reach this share of the measure at c = 1; needs no baseline."""

    kind: Literal["scaling"]
    name: RuleName
    measure: Literal["decode_tok_s"]
    at_least: Share


class AgreementRule(SpecModel):
    """Greedy replies against those of the baseline, the reference, up to the first fork at a low margin.

    A fork is a place where the tokens differ and the reference's best two are less than ``fork_margin_nats`` apart. With less
    than ``least_compared`` of the places before a fork there is no PASS. ``error_at_most_nats`` bounds the mean error of the
    logprobs of likely tokens, ``opening_error_at_most_nats`` that of a cell of openings, a few tokens behind a few words:
    rounding moves those a little more than others, wrong attention far more.
    """

    kind: Literal["agreement"]
    name: RuleName
    top1_at_least: Share
    overlap_at_least: Share
    error_at_most_nats: Annotated[float, Field(gt=0)]
    opening_error_at_most_nats: Annotated[float, Field(gt=0)] = 0.3
    fork_margin_nats: Annotated[float, Field(ge=0)] = 0.5
    least_compared: Share = 0.5


class SamenessRule(SpecModel):
    """Replies out of the prefix cache are those that were computed: as large a share of them as the baseline's, by their
    score ``same_when_cached``.

    On some serves a reply out of the cache always differs a little, because the rest of its prompt is computed in other
    steps. Where less than ``least_same`` of the baseline's replies are the same, the rule says nothing.
    """

    kind: Literal["sameness"]
    name: RuleName
    least_same: Share = 0.75
    fail_alpha: Alpha = 0.01


class PairedItemsRule(SpecModel):
    """A score against the baseline's on the same items. ``margin`` is the loss that is tolerated, 0.015 is 1.5 points.

    ``pass_fail`` (scores 0 and 1, each item once): FAIL by the exact McNemar test at ``fail_alpha`` with a loss beyond the
    margin, or by the exact test that the share right is under ``floor``; PASS when a loss of the margin is excluded at
    ``pass_alpha``. With a floor its test and McNemar's have half of ``fail_alpha`` each. With ``early_stop``, where cells are
    batches of items, looks are taken on the way and all levels are held over all of them.
    ``fraction`` (points, several rounds): an item is its mean over cells and repeats; bootstrap and sign flips over items.
    ``band`` is a published range of the share right, shown and never deciding.
    """

    kind: Literal["paired_items"]
    name: RuleName
    score: RuleName
    margin: Annotated[float, Field(gt=0, lt=1)]
    scale: Literal["pass_fail", "fraction"] = "pass_fail"
    floor: Annotated[float, Field(gt=0, lt=1)] | None = None
    band: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    fail_alpha: Alpha = 0.01
    pass_alpha: Alpha = 0.05
    random_weights: Literal["skip", "judge"] = "skip"
    early_stop: bool = False

    @model_validator(mode="after")
    def _fits_its_scale(self) -> PairedItemsRule:
        if self.scale == "fraction" and (self.early_stop or self.floor is not None):
            raise ValueError("early_stop and floor need scale: pass_fail")
        if self.band is not None and self.band[0] >= self.band[1]:
            raise ValueError("band must be [low, high]")
        return self


Rule = Annotated[
    RatioRule
    | GeomeanRatioRule
    | ZeroFailuresRule
    | ScoreRule
    | RecallRule
    | LimitRule
    | PointsRule
    | ScalingRule
    | AgreementRule
    | SamenessRule
    | PairedItemsRule,
    Field(discriminator="kind"),
]

ABSOLUTE_KINDS = frozenset({"zero_failures", "score", "recall", "limit", "scaling"})
"""Kinds that need nothing to compare with."""
