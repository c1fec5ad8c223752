"""Exit codes of the command line, and which of several verdicts counts. The only place that knows either."""

from __future__ import annotations

from collections.abc import Iterable

from ds4bench.core import Verdict

USAGE = 2
"""Bad gate file, unknown gate, target that cannot be reached at the start, file that cannot be written: any Ds4BenchError
or OSError."""

CRASH = 70
"""A defect of ds4bench itself (``EX_SOFTWARE``): no verdict, and never the code of one."""

EXIT = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.INVALID: 3,
    Verdict.INCONCLUSIVE: 4,
    Verdict.SKIPPED: 4,
}

_WORST_FIRST = (Verdict.INVALID, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.SKIPPED, Verdict.PASS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """INVALID > FAIL > INCONCLUSIVE > SKIPPED > PASS. Raises ValueError for none: nothing is no PASS."""
    return min(verdicts, key=_WORST_FIRST.index)
