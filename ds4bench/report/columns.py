"""The columns that a report's table of cells may have; a workload names its own in ``spec/workloads``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds4bench.core import Cell, RuleResult, Verdict
from ds4bench.measures import CellMeasures

HIDDEN_WHEN_NARROW = ("n", "baseline")


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
    "failed": Column("failed", _failed),
    "recall": Column("recall", lambda row: row.recall_note or number(row.measures.recall, "{:.2f}")),
    "scores": Column("scores", lambda row: ", ".join(f"{k} {v:.3f}" for k, v in (row.measures.scores or {}).items())),
}
