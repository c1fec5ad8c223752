"""``paired_items``: a score of the answers against the baseline's on the same items, one by one.

Pass/fail items by ``stats/sequential.py`` (exact McNemar for FAIL, non-inferiority for PASS, a floor), with looks on the way
where the rule may stop a run; fractional scores by the paired bootstrap and sign flips of ``stats/paired.py``. Without a
baseline only the floor can decide, and only for FAIL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from ds4bench.core import RuleResult, ScriptRow, Verdict
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.stop import Stop
from ds4bench.verdicts.wording import limit, percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import PairedItemsRule
    from ds4bench.stats.sequential import Plan

Item = tuple[str, str]
"""Cell and key: the item's name, the same in every run."""

_SHOWN = 5


@dataclass(frozen=True)
class Pairs:
    """Scores of the same items on both sides, in the order of the run: [items][passes]."""

    keys: list[Item]
    ours: list[list[float]]
    theirs: list[list[float]]
    refusal: str | None = None


def judge(rule: PairedItemsRule, evidence: Evidence) -> list[RuleResult]:
    """One result; see the module."""
    if rule.random_weights == "skip" and _random_weights(evidence):
        sentence = f"{rule.score}: not applicable (random weights)"
        return [RuleResult(rule=rule.name, verdict=Verdict.SKIPPED, sentence=sentence, primary=False)]
    ours = _by_item(rule.score, evidence.scripts())
    if why := _unscored(rule, evidence, ours):
        return [_result(rule, Verdict.INCONCLUSIVE, why)]
    if evidence.baseline is None:
        return [_floor_alone(rule, evidence, ours)]
    pairs = _pairs(rule, evidence, ours)
    if why := pairs.refusal or _nothing_to_lose(rule, pairs, evidence.baseline.name):
        return [_without_comparison(rule, evidence, ours, why)]
    decide = _pass_fail if rule.scale == "pass_fail" else _fraction
    return [decide(rule, evidence, pairs, evidence.baseline.name)]


def stop(rule: PairedItemsRule, evidence: Evidence) -> Stop | None:
    """The sequential verdict as soon as there is one: PASS and FAIL against the baseline, without one FAIL by the floor.

    The error rates are held over all looks. A run that cannot be compared goes on: whole, it can be a baseline.
    """
    if rule.random_weights == "skip" and _random_weights(evidence):
        return None
    [result] = judge(rule, evidence)
    if result.verdict not in (Verdict.PASS, Verdict.FAIL):
        return None
    return Stop(
        result.verdict, f"after {len(evidence.scripts())} of {_planned(evidence)} items {rule.score} is decided"
    )


def _pass_fail(rule: PairedItemsRule, evidence: Evidence, pairs: Pairs, name: str) -> RuleResult:
    from ds4bench.stats.paired import mcnemar_loss, paired_counts, tango_interval
    from ds4bench.stats.sequential import examine

    if why := _not_pass_fail(rule, pairs.ours + pairs.theirs):
        return _result(rule, Verdict.INCONCLUSIVE, why)
    plan = _plan(rule, evidence)
    ours, theirs = [scores[0] for scores in pairs.ours], [scores[0] for scores in pairs.theirs]
    looks = examine(ours, theirs, plan)
    decided = looks[-1] if looks else None
    items = decided.items if decided and decided.decision in ("pass", "fail") else len(ours)
    counts = paired_counts(ours[:items], theirs[:items])
    interval = tango_interval(counts, confidence=0.90)
    sentence = (
        f"{rule.score} {_share(counts.both + counts.won, items)}, {name} {_share(counts.both + counts.lost, items)} on the "
        f"same items: {counts.lost} lost, {counts.won} won, {_points(counts.difference, interval.low, interval.high)}; "
        f"{_limits(rule)}"
    )
    p = mcnemar_loss(counts.lost, counts.won) if len(plan.looks) == 1 else None  # with looks it would claim too much
    if decided is not None and decided.decision in ("pass", "fail"):
        verdict = Verdict.PASS if decided.decision == "pass" else Verdict.FAIL
        # The floor's test is exact and none of the suite's comparisons: McNemar's p is not what it rests on.
        return _result(
            rule, verdict, f"{sentence}; {decided.reason}", None if decided.under_floor else p,
            absolute=decided.under_floor and not decided.lost_more_than(rule.margin),
        )  # fmt: skip
    right = sum(ours)
    under = rule.floor is not None and right < rule.floor * len(ours)
    why = (
        f"under the floor of {limit(rule.floor or 0)}, but perhaps by chance"
        if under
        else _open(rule, counts.lost, counts.won)
    )
    return _result(rule, Verdict.INCONCLUSIVE, f"{sentence}; {why}", p)


def _fraction(rule: PairedItemsRule, evidence: Evidence, pairs: Pairs, name: str) -> RuleResult:
    """An item is its key, averaged over cells and repeats: the same scenario in another mode is no new scenario."""
    from ds4bench.stats.paired import paired_bootstrap, sign_flip_loss

    ours, theirs = _means(pairs.keys, pairs.ours), _means(pairs.keys, pairs.theirs)
    if len(ours) < 3:
        return _result(
            rule, Verdict.INCONCLUSIVE, f"{rule.score}: {len(ours)} items are too few to compare, 3 are needed"
        )
    interval = paired_bootstrap(ours, theirs, confidence=1 - 2 * rule.pass_alpha, seed=evidence.spec.seed)
    p = sign_flip_loss(ours, theirs, seed=evidence.spec.seed)
    lost = sum(a < b for a, b in zip(ours, theirs, strict=True))
    won = sum(a > b for a, b in zip(ours, theirs, strict=True))
    sentence = (
        f"{rule.score} {percent(fmean(ours), 1)} over {len(ours)} items, {name} {percent(fmean(theirs), 1)} on the same: "
        f"{lost} worse, {won} better, {_points(interval.difference, interval.low, interval.high)}; {_limits(rule)}"
    )
    if p <= rule.fail_alpha and -interval.difference > rule.margin:
        return _result(rule, Verdict.FAIL, f"{sentence}; points were lost, and more than the margin", p)
    if interval.low > -rule.margin:
        return _result(rule, Verdict.PASS, f"{sentence}; a loss beyond the margin is excluded", p)
    return _result(rule, Verdict.INCONCLUSIVE, f"{sentence}; {_open(rule, lost, won)}", p)


def _floor_alone(rule: PairedItemsRule, evidence: Evidence, ours: dict[Item, list[float]]) -> RuleResult:
    return _without_comparison(rule, evidence, ours, "; ".join(evidence.refusal) or "no baseline")


def _without_comparison(
    rule: PairedItemsRule, evidence: Evidence, ours: dict[Item, list[float]], why: str
) -> RuleResult:
    """The share right, what keeps it from being compared, and FAIL when it is shown to be under the floor.

    At the floor's half of ``fail_alpha``, as beside a comparison: a run that stops here may be compared afterwards, with the
    other side of ``ds4bench ci``, and must find the same bounds again.
    """
    from ds4bench.stats.sequential import examine_floor

    values = list(ours.values())
    mean = fmean(fmean(scores) for scores in values)
    sentence = f"{rule.score} {percent(mean, 1)} over {len(values)} items; {_limits(rule)}"
    if rule.floor is None or _not_pass_fail(rule, values):
        return _result(rule, Verdict.INCONCLUSIVE, f"{sentence}; {why}")
    plan = _plan(rule, evidence)
    looks = examine_floor([scores[0] for scores in values], replace(plan, fail_alpha=plan.fail_alpha / 2))
    if looks and looks[-1].decision == "fail":
        reached = looks[-1]
        found = f"{rule.score} {_share(reached.right, reached.items)}; {_limits(rule)}"
        return _result(rule, Verdict.FAIL, f"{found}; it is under the floor", absolute=True)
    return _result(rule, Verdict.INCONCLUSIVE, f"{sentence}; {why}")


def _pairs(rule: PairedItemsRule, evidence: Evidence, ours: dict[Item, list[float]]) -> Pairs:
    """The items of both sides. A candidate that was stopped early is compared on what it was asked."""
    assert evidence.baseline is not None
    name = evidence.baseline.name
    theirs = _by_item(rule.score, evidence.baseline.scripts)
    lacking = [item for item in ours if item not in theirs]
    more = [item for item in theirs if item not in ours] if len(evidence.batches) == evidence.planned else []
    refusal = None
    if lacking:
        refusal = (
            f"{name} has no {rule.score} for {len(lacking)} of the {len(ours)} items ({_named(lacking)}): measure a baseline "
            "of all items"
        )
    elif more:
        refusal = f"the items differ: {name} has {len(more)} that were not asked here ({_named(more)})"
    kept = [item for item in ours if item in theirs]
    return Pairs(kept, [ours[item] for item in kept], [theirs[item] for item in kept], refusal)


def _by_item(score: str, scripts: Iterable[ScriptRow]) -> dict[Item, list[float]]:
    """Scores of each item, one a repeat, in the order of the run."""
    found: dict[Item, list[float]] = {}
    for script in scripts:
        if script.phase == "measure" and script.answer is not None and score in script.answer.scores:
            found.setdefault((script.cell, script.key), []).append(script.answer.scores[score])
    return found


def _unscored(rule: PairedItemsRule, evidence: Evidence, ours: dict[Item, list[float]]) -> str | None:
    """Why the run itself cannot be judged: items without a score."""
    scripts = evidence.scripts()
    missing = [(s.cell, s.key) for s in scripts if s.answer is None or rule.score not in s.answer.scores]
    if missing:
        return f"{len(missing)} of {len(scripts)} items have no {rule.score} ({_named(missing)})"
    return None if ours else f"no item has a score {rule.score}"


def _nothing_to_lose(rule: PairedItemsRule, pairs: Pairs, name: str) -> str | None:
    """A baseline that is itself at or under the margin cannot be fallen below by it: a PASS would say nothing."""
    mean = fmean(fmean(scores) for scores in pairs.theirs)
    if mean > rule.margin:
        return None
    return f"{name} itself has only {percent(mean, 1)}, so a loss of {_points_of(rule.margin)} could not be seen"


def _not_pass_fail(rule: PairedItemsRule, values: Sequence[Sequence[float]]) -> str | None:
    if all(len(scores) == 1 and scores[0] in (0.0, 1.0) for scores in values):
        return None
    return f"{rule.score} has other values than 0 and 1, or items were asked twice: write scale: fraction"


def _plan(rule: PairedItemsRule, evidence: Evidence) -> Plan:
    from ds4bench.stats.sequential import Plan, default_looks

    items = _planned(evidence)
    return Plan(
        looks=default_looks(items) if rule.early_stop else (items,),
        margin=rule.margin, floor=rule.floor, fail_alpha=rule.fail_alpha, pass_alpha=rule.pass_alpha,
    )  # fmt: skip


def _planned(evidence: Evidence) -> int:
    """Items of the whole run; where cells are no batches of items, those that there are."""
    return evidence.spec.matrix.items() or len(evidence.scripts())


def _means(keys: Sequence[Item], scores: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each key over its cells, each cell the mean of its repeats."""
    found: dict[str, list[float]] = {}
    for (_, key), values in zip(keys, scores, strict=True):
        found.setdefault(key, []).append(fmean(values))
    return [fmean(values) for values in found.values()]


def _open(rule: PairedItemsRule, lost: int, won: int) -> str:
    if lost > won:
        return "neither a loss nor its absence is shown: more items would decide"
    return f"too few items to exclude a loss of {_points_of(rule.margin)}"


def _limits(rule: PairedItemsRule) -> str:
    floor = f", floor {limit(rule.floor)}" if rule.floor is not None else ""
    band = f", published {100 * rule.band[0]:g} to {100 * rule.band[1]:g} %" if rule.band else ""
    return f"margin {_points_of(rule.margin)}{floor}{band}"


def _share(right: int, items: int) -> str:
    return f"{percent(right / items, 1)} ({right} of {items})"


def _points(difference: float, low: float, high: float) -> str:
    """``-0.5 points (-2.1 to +1.0)``."""
    return f"{100 * difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _points_of(margin: float) -> str:
    return f"{100 * margin:g} points"


def _named(items: Sequence[Item]) -> str:
    return ", ".join(key for _, key in items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _result(
    rule: PairedItemsRule, verdict: Verdict, sentence: str, p: float | None = None, *, absolute: bool = False
) -> RuleResult:
    return RuleResult(
        rule=rule.name, verdict=verdict, sentence=f"{sentence}: {verdict}", margin=rule.margin, p=p,
        fail_alpha=rule.fail_alpha, absolute=absolute,
    )  # fmt: skip


def _random_weights(evidence: Evidence) -> bool:
    fingerprint = evidence.run.manifest.fingerprint
    return fingerprint is not None and fingerprint.weights == "random"
