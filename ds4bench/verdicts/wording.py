"""The words of verdict sentences: metrics, percentages, ratios."""

from __future__ import annotations

from typing import NamedTuple

from ds4bench.core import Estimate


class MetricWords(NamedTuple):
    """How a metric is called and what a larger and a smaller value of it is called."""

    name: str
    larger: str
    smaller: str


METRICS = {
    "ttft_s": MetricWords("TTFT", "slower", "faster"),
    "ttfa_s": MetricWords("TTFA", "slower", "faster"),
    "e2e_s": MetricWords("end-to-end time", "longer", "shorter"),
    "tpot_ms": MetricWords("TPOT", "slower", "faster"),
    "tpot_decode_ms": MetricWords("TPOT (decode)", "slower", "faster"),
}


def percent(share: float, digits: int = 0) -> str:
    """0.05 -> ``5 %``."""
    return f"{100 * share:.{digits}f} %"


def limit(share: float) -> str:
    """A margin without needless digits: 0.05 -> ``5 %``, 0.015 -> ``1.5 %``."""
    return f"{100 * share:g} %"


def change(metric: str, estimate: Estimate) -> str:
    """``TTFT is 2.1 % (+-1.4) slower``; the number in brackets is half the 90 % interval, in points."""
    words = METRICS[metric]
    half = 100 * (estimate.high - estimate.low) / 2
    word = words.larger if estimate.ratio >= 1 else words.smaller
    return f"{words.name} is {percent(abs(estimate.ratio - 1), 1)} (+-{half:.1f}) {word}"
