"""How a check says what it found, and words about batches."""

from __future__ import annotations

from collections.abc import Iterable

from ds4bench.core import CheckResult, CheckStatus
from ds4bench.verdicts.evidence import Batch, cells_of


def ok(name: str, detail: str) -> CheckResult:
    """The check holds."""
    return CheckResult(name=name, status=CheckStatus.OK, detail=detail)


def failed(name: str, detail: str, batches: Iterable[Batch] = ()) -> CheckResult:
    """The measurement does not measure what it says: INVALID."""
    return CheckResult(name=name, status=CheckStatus.FAILED, detail=detail, cells=cells_of(batches))


def unverified(name: str, detail: str, batches: Iterable[Batch] = ()) -> CheckResult:
    """It cannot be told: no PASS."""
    return CheckResult(name=name, status=CheckStatus.UNVERIFIED, detail=detail, cells=cells_of(batches))


def not_applicable(name: str, detail: str) -> CheckResult:
    """The check says nothing about this run."""
    return CheckResult(name=name, status=CheckStatus.NOT_APPLICABLE, detail=detail)


def names(batches: Iterable[Batch]) -> str:
    """``p2048-c1, p2048-c2``."""
    return ", ".join(cells_of(batches))
