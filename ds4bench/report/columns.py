"""The columns that a report's table of cells may have; a workload names its own in ``spec/workloads``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds4bench.core import Cell, RuleResult, Verdict
from ds4bench.measures import CellMeasures

HIDDEN_WHEN_NARROW = ("ranks", "n", "baseline")  # in this order


@dataclass(frozen=True)
class Row:
    """One cell: what was measured, the baseline's measures, the rule of this cell, what stands where recall is none."""

    measures: CellMeasures
    baseline: CellMeasures | None
    rule: RuleResult | None
    recall_note: str | None


@dataclass(frozen=True)
class Column:
    """Header, the value as text, and its meaning for the line under the table."""

    header: str
    text: Callable[[Row], str]
    meaning: str = ""


_AXES = {"prompt_tokens": "prompt", "concurrency": "c"}


def axes(cells: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """Header and text of each axis of the matrix; one column ``cell`` where cells are batches of items."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.params))
    if not names or "first" in names:
        return {"cell": lambda cell: cell.id}

    def text(name: str) -> Callable[[Cell], str]:
        return lambda cell: _plain(cell.params.get(name, ""))

    return {_AXES.get(name, name): text(name) for name in names}


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def number(value: float | None, form: str) -> str:
    """The value, or ``-`` where there is none."""
    return "-" if value is None else form.format(value)


def _measure(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: number(getattr(row.measures, name), form)


def _baseline(row: Row) -> str:
    """The baseline's value of what the rule of this cell judges: TTFT, or time per token."""
    if row.baseline is None:
        return "-"
    if row.rule is not None and row.rule.estimate is not None:
        return f"{row.rule.estimate.baseline:.3f}"
    return number(row.baseline.ttft_mean_s, "{:.3f}")


def _ratio(row: Row) -> str:
    rule = row.rule
    if rule is None or rule.estimate is None:
        return "-"
    estimate = rule.estimate
    text = f"{estimate.ratio:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"
    return f"[red]{text}[/red]" if rule.verdict is Verdict.FAIL else text


def _failed(row: Row) -> str:
    return f"[red]{row.measures.failures}[/red]" if row.measures.failures else "0"


def _share(name: str) -> Callable[[Row], str]:
    """A score as a percentage."""
    return lambda row: number((row.measures.scores or {}).get(name), "{:.1%}")


def _stars(row: Row) -> str:
    """One to five by the steps of ToolCall-15, of the rounded percentage of points."""
    points = (row.measures.scores or {}).get("points")
    if points is None:
        return "-"
    percent = math.floor(100 * points + 0.5)
    return str(next((stars for least, stars in _STAR_STEPS if percent >= least), 1))


def _categories(row: Row) -> str:
    """``A100 B83``: percentages of the scores named after a category."""
    found = {name: value for name, value in (row.measures.scores or {}).items() if name.startswith(_CATEGORY)}
    return " ".join(f"{name.removeprefix(_CATEGORY).upper()}{100 * value:.0f}" for name, value in found.items()) or "-"


def _not_full(row: Row) -> str:
    """Numbers of the scenarios that did not get full points in every round."""
    found = [name for name, value in (row.measures.scores or {}).items() if name.startswith(_SCENARIO) and value < 1]
    more = f" +{len(found) - _LISTED}" if len(found) > _LISTED else ""
    return (" ".join(name.removeprefix(_SCENARIO) for name in found[:_LISTED]) or "none") + more


_STAR_STEPS = ((90, 5), (75, 4), (60, 3), (40, 2))
_CATEGORY, _SCENARIO = "category-", "tc-"
_LISTED = 5
_POINTS = "v1-...: share of full points by that rule set; stars, categories: by the gate's own"


def _ranks(row: Row) -> str:
    return " ".join(f"{value:.2f}" for value in row.measures.ttft_ranks_s) or "-"


def _roles(row: Row) -> str:
    parts = [f"{number(m.ttft_s, '{:.2f}')} / {number(m.worst_gap_ms, '{:.0f}')}" for m in row.measures.roles.values()]
    return ", ".join(parts) or "-"


_IDEAL = "ideal: full blocks of the prompt before; hits on its reply come on top"
_TTFT = "TTFT: mean and maximum over requests"
_RATES = "prefill and decode in tokens a second"
_OUTPUT = "out and steady: output tokens a second over the cell and its steady window"
_ACCEPTED = "accepted: tokens a decoding step"

COLUMNS: dict[str, Column] = {
    "n": Column("n", lambda row: str(row.measures.requests)),
    "ttft": Column("TTFT s", _measure("ttft_mean_s", "{:.3f}"), _TTFT),
    "ttft_max": Column("max s", _measure("ttft_max_s", "{:.3f}")),
    "ttft_median": Column("TTFT med s", _measure("ttft_median_s", "{:.3f}")),
    "tpot": Column("TPOT ms", _measure("tpot_mean_ms", "{:.2f}"), "TPOT: mean over requests, without the first chunk"),
    "baseline": Column("baseline", _baseline),
    "ratio": Column("ratio (90 %)", _ratio),
    "prefill": Column("prefill", _measure("prefill_tok_s", "{:,.0f}"), _RATES),
    "decode": Column("decode", _measure("decode_tok_s", "{:,.1f}"), _RATES),
    "output": Column("out", _measure("output_tok_s", "{:,.1f}"), _OUTPUT),
    "steady": Column("steady", _measure("output_tok_s_steady", "{:,.1f}"), _OUTPUT),
    "accepted": Column("accepted", _measure("acceptance_length", "{:.2f}"), _ACCEPTED),
    "tokens": Column("tokens", _measure("output_tokens", "{:,.0f}"), "tokens: mean length of a reply"),
    "hit_rate": Column("hit rate", _measure("hit_rate", "{:.3f}"), "hit rate: cached share of prompt tokens"),
    "ideal": Column("ideal", _measure("ideal_hit_rate", "{:.3f}"), _IDEAL),
    "of_ideal": Column("of ideal", _measure("hit_of_ideal", "{:.3f}"), _IDEAL),
    "itl_p99": Column("ITL p99 ms", _measure("itl_p99_ms", "{:.1f}"), "ITL: gaps between chunks"),
    "ranks": Column("TTFT by rank s", _ranks, "by rank: mean TTFT of the first, second, ... that was served"),
    "roles": Column(
        "TTFT s / gap ms", _roles, "of each request in the order of arrival: mean TTFT, longest gap of a reply"
    ),
    "failed": Column("failed", _failed),
    "recall": Column("recall", lambda row: row.recall_note or number(row.measures.recall, "{:.2f}")),
    "v1_jasl": Column("v1-jasl", _share("v1-jasl"), _POINTS),
    "v1_original": Column("v1-orig", _share("v1-original"), _POINTS),
    "stars": Column("stars", _stars),
    "categories": Column("categories %", _categories),
    "not_full": Column("not full", _not_full, "not full: numbers of scenarios without full points in every round"),
    "scores": Column("scores", lambda row: ", ".join(f"{k} {v:.3f}" for k, v in (row.measures.scores or {}).items())),
}
