"""Exit codes are a contract with scripts."""

from __future__ import annotations

import pytest

from ds4bench.core import Verdict
from ds4bench.verdicts.exit_codes import EXIT, USAGE, worst


def test_exit_codes_are_the_promised_ones() -> None:
    codes = {verdict.value: EXIT[verdict] for verdict in Verdict}
    assert codes == {"PASS": 0, "FAIL": 1, "INVALID": 3, "INCONCLUSIVE": 4, "SKIPPED": 4}
    assert USAGE == 2


def test_worst_verdict_counts() -> None:
    order = [Verdict.PASS, Verdict.SKIPPED, Verdict.INCONCLUSIVE, Verdict.FAIL, Verdict.INVALID]
    for place, verdict in enumerate(order):
        assert worst(order[: place + 1]) is verdict
        assert worst(reversed(order[: place + 1])) is verdict


def test_no_verdict_at_all_is_no_pass() -> None:
    with pytest.raises(ValueError, match="empty"):
        worst([])
