"""What a rule says that cannot change any more."""

from __future__ import annotations

from dataclasses import dataclass

from ds4bench.core import Verdict


@dataclass(frozen=True)
class Stop:
    """A rule is decided: ``reason`` is a clause for a person."""

    verdict: Verdict
    reason: str
