"""The outcome of a suite in Markdown, for a GitHub step summary (``--summary "$GITHUB_STEP_SUMMARY"``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds4bench.core import Verdict
from ds4bench.errors import StoreError
from ds4bench.report.promotion import shown, why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ds4bench.verdicts.promotion import Promotion, SuiteLine

_MARKS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.INVALID: "🚫"}


def summary_markdown(outcome: Promotion, head: Mapping[str, Any]) -> str:
    """A heading with the verdict, a table of the gates, and the estimates of each comparison folded below."""
    text = [f"## {_mark(outcome.verdict)} ds4bench: {outcome.verdict}", "", _escaped(outcome.sentence), ""]
    text += [", ".join(f"{name} `{value}`" for name, value in head.items()), ""]
    text += ["| gate | profile | verdict | why | time |", "|---|---|---|---|---|", *map(_row, outcome.lines), ""]
    details = [f"- {_escaped(f'{line.gate}: {rule.sentence}')}" for line in outcome.lines for rule in line.rules]
    if details:
        text += ["<details><summary>All rules</summary>", "", *details, "", "</details>", ""]
    return "\n".join(text)


def append_summary(path: str, outcome: Promotion, head: Mapping[str, Any]) -> None:
    """Append, as GitHub wants it. Raises StoreError when the file cannot be written."""
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary_markdown(outcome, head))
    except OSError as error:
        raise StoreError(f"--summary {path}: cannot be written: {error}") from None


def _row(line: SuiteLine) -> str:
    time = "" if line.seconds is None else f"{line.seconds:.0f} s"
    verdict = f"{_mark(line.verdict)} {shown(line)}"
    return f"| {line.gate} | {line.profile} | {verdict} | {_escaped(why(line))} | {time} |"


def _mark(verdict: Verdict | None) -> str:
    return _MARKS.get(verdict, "⚠️") if verdict is not None else "⚠️"


def _escaped(text: str) -> str:
    """Plain text in a table cell: no pipes, tags or line ends of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
