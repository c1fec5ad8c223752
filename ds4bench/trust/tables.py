"""Tables of the simulations: JSON files, Markdown for people, and which promise a number breaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4bench.trust.simulation import AS_ASSUMED, WITH_PROBE

Row = dict[str, Any]

FALSE_FAIL = 0.01
POWER = 0.95
_CHANCE = 2.33
"""Standard errors that a simulated share may be beyond its promise: 1 % one-sided."""


def write(path: Path, rows: Sequence[Row], *, promotions: int, seed: int) -> None:
    """One row a line."""
    body = ",\n    ".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'{{\n  "schema": 1,\n  "promotions": {promotions},\n  "seed": {seed},\n  "rows": [\n    {body}\n  ]\n}}\n'
    )


def simulation_tables(aa: Sequence[Row], power: Sequence[Row], sequential: Sequence[Row]) -> str:
    """Three Markdown tables."""
    return "\n".join(
        [
            "### Unchanged builds (A/A)\n",
            "Simulated promotions of an unchanged build, drawn from the stored timings of real runs.\n",
            _markdown(aa, ("gate", "profile", "rule", "stored_repeats", "noise_cv", "true_session_cv", "sessions", "margin",
                           "repeats", "passed", "failed", "inconclusive")),
            "### True slowdowns, margin 5 %, 1 % between sessions\n",
            _markdown([row for row in power if row["kind"] == "slowdown"],
                      ("noise_cv", "repeats", "truth", "passed", "failed", "inconclusive")),
            "### True slowdowns of each gate's rules, with their own noise, margin and repeats\n",
            _markdown([row for row in power if row["kind"] == "gate"],
                      ("gate", "profile", "rule", "margin", "repeats", "truth", "passed", "failed", "inconclusive")),
            "### True losses of accuracy, sequential rule, margin 1.5 points\n",
            _markdown([row for row in power if row["kind"] == "accuracy"],
                      ("questions", "flips", "truth", "passed", "failed", "inconclusive", "mean_questions",
                       "median_questions")),
            "### Questions to a verdict, against 1,319\n",
            _markdown(sequential, ("flips", "truth", "mean_questions", "median_questions", "saved", "passed", "failed",
                                   "inconclusive")),
        ]
    )  # fmt: skip


def broken_promises(aa: Sequence[Row], power: Sequence[Row]) -> list[str]:
    """What is promised and not kept, beyond the chance of so many promotions.

    False FAILs at most 1 % while sessions are as assumed, or as they were with the CPU probe's word on them; a true 10 %
    fails in 95 % at margin 5 %, noise 2 % and 5 repeats; a loss of 25 points is found within 60 questions in the median.
    A share is drawn, not known: with 1,000 promotions a row more than 1.7 % FAILs, or less than 93.4 %, breaks the promise,
    which is what a build that just keeps it shows in 1 of 100 such rows.
    """
    lines = []
    for row in aa:
        allowed = FALSE_FAIL + _CHANCE * (FALSE_FAIL * (1 - FALSE_FAIL) / row["promotions"]) ** 0.5
        if row["sessions"] in {AS_ASSUMED, WITH_PROBE} and row["failed"] > allowed:
            lines.append(
                f"{row['gate']} ({row['rule']}) fails {row['failed']:.1%} of unchanged builds (sessions {row['sessions']}), "
                f"1 % is promised ({allowed:.1%} with the chance of {row['promotions']:,} draws)"
            )
    for row in power:
        key = (row["kind"], row["truth"], row.get("noise_cv"), row.get("repeats"))
        if key == ("slowdown", 0.10, 0.02, 5):
            allowed = POWER - _CHANCE * (POWER * (1 - POWER) / row["promotions"]) ** 0.5
            if row["failed"] < allowed:
                lines.append(
                    f"a true 10 % fails in {row['failed']:.1%}, 95 % is promised ({allowed:.1%} with the chance of "
                    f"{row['promotions']:,} draws)"
                )
        if row["kind"] == "accuracy" and row["truth"] == 0.25 and row["median_questions"] > 60:
            lines.append(
                f"a loss of 25 points takes {row['median_questions']} questions in the median, 60 are promised"
            )
    return lines


def _markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(name, row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


_SHARES = frozenset(
    {"passed", "failed", "inconclusive", "margin", "truth", "noise_cv", "true_session_cv", "flips", "saved"}
)


def _cell(name: str, value: object) -> str:
    if isinstance(value, int | float) and name in _SHARES:
        return f"{100 * value:.1f} %"
    return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)
