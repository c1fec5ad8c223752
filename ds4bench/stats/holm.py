"""Holm's step-down correction for a family of tests (the gates of a suite, the cells of a gate).

S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2),
1979, 65-70. Controlled: the chance of one or more false rejections in the whole family is at most alpha, for
any dependence between the tests. It rejects all that Bonferroni rejects, and sometimes more.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given; a test is rejected at alpha when its adjusted p is <= alpha.

    The i-th smallest of m values is multiplied by m - i + 1, is never smaller than the one before it, and at
    most 1. An empty family gives an empty list. Raises ValueError for a value outside [0, 1] or NaN.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is no p value, it must lie between 0 and 1")
    adjusted = [0.0] * len(p_values)
    so_far = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = so_far
    return adjusted
