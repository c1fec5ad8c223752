"""What a search will cost, said before it starts: every start of an engine is minutes of a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from ds4bench.attribution.search import Effect, Findings, Group, OpSet, follow, search

_MOST_PAIRS = 60
"""Of more pairs, evenly spread ones are played."""


@dataclass(frozen=True)
class Expected:
    """Serves to be started, the baseline's included: when nothing differs, when one op is to blame (usual and most), when
    two are (most; each alone, or only both together)."""

    nothing: int
    one_usual: int
    one_most: int
    two_most: int

    def text(self) -> str:
        """The numbers in a sentence."""
        return (
            f"{self.nothing} serves if nothing differs; about {self.one_usual} (at most {self.one_most}) to name one op; "
            f"at most {self.two_most} to name two"
        )


def expected(groups: Sequence[Group], *, closing: bool) -> Expected:
    """Play the search for every single culprit and for pairs. ``closing``: the baseline is measured again at the end."""
    ops = [op for group in groups for op in group.ops]
    base, after = 1, int(closing)
    one = [base + after + steps(groups, [frozenset([op])]) for op in ops]
    pairs = list(combinations(ops, 2))
    spread = pairs[:: max(1, len(pairs) // _MOST_PAIRS)]
    two = [base + after + steps(groups, [frozenset([a]), frozenset([b])]) for a, b in spread]
    two += [base + after + steps(groups, [frozenset([a, b])]) for a, b in spread]
    return Expected(base + 1, round(median(one)), max(one), max(two, default=max(one)))


def steps(groups: Sequence[Group], culprits: Iterable[OpSet]) -> int:
    """Configurations that are measured when exactly these sets of ops do harm."""
    wrong, known = list(culprits), dict[OpSet, Effect]()
    while not isinstance(following := follow(search(groups), known), Findings):
        known[following] = Effect.WORSE if any(ops <= following for ops in wrong) else Effect.SAME
    return len(known)
