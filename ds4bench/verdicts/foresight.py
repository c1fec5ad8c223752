"""What a comparison will be able to see, said before the run starts: the minimum detectable effect of each rule.

The noise is the calibrated one where ``ds4bench calibrate`` stored it with the baseline, else the baseline's own spread of
repeats with the session noise that the gate file assumes. A margin under the minimum detectable effect is refused (exit
code 2, nothing is measured) only where the noise was calibrated: the spread of one baseline's few repeats is itself too
uncertain to forbid a run, it is only said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Cell, RequestRow
from ds4bench.measures import judged_metric
from ds4bench.verdicts.rules.comparison import calibrated_noise, comparing_rules, session_cv, spread
from ds4bench.verdicts.rules.geomean_ratio import run_means
from ds4bench.verdicts.rules.ratio import strata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.rules import PairedItemsRule
    from ds4bench.stats.decision import Spread
    from ds4bench.verdicts.rules.comparison import ComparingRule


@dataclass(frozen=True)
class Sight:
    """What one rule can see. ``refusal`` says why its margin cannot be judged."""

    rule: str
    sentence: str
    refusal: str | None = None


def foresee(spec: GateSpec, baseline: Baseline | None) -> list[Sight]:
    """One entry a comparing rule whose noise is known, and one a rule of paired items; nothing without a baseline. Pure."""
    if baseline is None:
        return []
    sights = [_sight(rule, spec, baseline) for rule in comparing_rules(spec)]
    sights += [_paired_sight(rule, spec, baseline) for rule in spec.rules if rule.kind == "paired_items"]
    return [sight for sight in sights if sight is not None]


def levels_of(
    rule: ComparingRule, sides: Sequence[Sequence[RequestRow]], cells: Sequence[Cell]
) -> list[list[list[float]]]:
    """[repeats, strata] of each side, of what the rule compares them by. Raises ValueError when a side does not have it."""
    metric, table = judged_metric(rule.metric, *sides), strata if rule.kind == "ratio" else run_means
    return [table(rows, cells, metric) for rows in sides]


def _sight(rule: ComparingRule, spec: GateSpec, baseline: Baseline) -> Sight | None:
    from ds4bench.stats import mde

    noise, count = baseline.noise.get(rule.name), spec.repeats.count
    if noise is not None:
        theirs = len({row.repeat for row in baseline.requests}) or count
        now, name = spread(noise, count, theirs), calibrated_noise(noise)
        return Sight(rule.name, f"{rule.name}: {mde.sentence(now, name)}", mde.refusal(rule.margin, now, name))
    own = _own_spread(rule, spec, baseline)
    return None if own is None else Sight(rule.name, f"{rule.name}: {mde.sentence(own)}")


def _paired_sight(rule: PairedItemsRule, spec: GateSpec, baseline: Baseline) -> Sight | None:
    """For answers that are right or wrong: what their number alone allows. With a floor half of the error rate is its."""
    from ds4bench.stats.paired import detectable_loss

    items = spec.matrix.items() or len({(script.cell, script.key) for script in baseline.scripts})
    if rule.scale != "pass_fail" or not items:
        return None
    loss = detectable_loss(items, rule.margin, rule.fail_alpha / (1 if rule.floor is None else 2))
    seen = "no loss" if loss is None else f"a loss of {100 * loss:.1f} points or more"
    return Sight(rule.name, f"{rule.name}: with {items} items this gate can see {seen}, if no other answer changes")


def _own_spread(rule: ComparingRule, spec: GateSpec, baseline: Baseline) -> Spread | None:
    """The baseline's spread of repeats; None where it has fewer than two or lacks values."""
    import numpy as np

    from ds4bench.stats.decision import Spread

    try:
        (levels,) = levels_of(rule, [baseline.requests], spec.matrix.cells())
        table = np.asarray(levels, dtype=np.float64)
    except ValueError:
        return None
    if table.ndim != 2 or len(table) < 2 or not (table > 0).all():
        return None
    noise_cv = float(np.log(table).mean(axis=1).std(ddof=1))
    return Spread(noise_cv, spec.repeats.count, len(table), session_cv(rule, baseline))
