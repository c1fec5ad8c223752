"""Experiments cut into shares that run beside each other, each on CPU cores of its own. Pure.

Shares depend on nothing but what is shared out, so that a share which was stopped is the same when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ds4bench.errors import SpecError
from ds4bench.trust.expectations import Row


@dataclass(frozen=True)
class Shard:
    """Share ``index`` (from 0) of ``count``."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``I/N``, I from 1 to N. Raises SpecError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise SpecError(f"--shard {text}: write it like 1/4, the first of four shares")
        return cls(int(index) - 1, int(count))

    def of_count(self, total: int) -> int:
        """How many of ``total`` equal runs are this share's."""
        return total // self.count + (self.index < total % self.count)

    def of_rows(self, rows: Sequence[Row], gates_of: Callable[[Row], Sequence[str]]) -> list[Row]:
        """This share's rows of the matrix, in the order of the table.

        The longest rows are dealt first, each to the share that has the least to do with it. Rows of one route share the
        healthy baselines of their gates, which every share measures for itself on its own cores.
        """
        shares = [_Share() for _ in range(self.count)]
        for row in sorted(rows, key=lambda row: -len(gates_of(row))):  # stable: equal rows stay in order
            gates = gates_of(row)
            least = min(shares, key=lambda share: share.with_row(row, gates))
            least.take(row, gates)
        mine = {row.name for row in shares[self.index].rows}
        return [row for row in rows if row.name in mine]


WHOLE = Shard(0, 1)


@dataclass
class _Share:
    """Rows dealt so far; ``runs`` counts gate runs with those of baselines."""

    rows: list[Row] = field(default_factory=list)
    runs: int = 0
    baselines: set[tuple[str, str]] = field(default_factory=set)

    def with_row(self, row: Row, gates: Sequence[str]) -> int:
        """Gate runs if it took the row."""
        return self.runs + len(gates) + sum((row.route, gate) not in self.baselines for gate in gates)

    def take(self, row: Row, gates: Sequence[str]) -> None:
        """Deal it the row."""
        self.runs = self.with_row(row, gates)
        self.baselines |= {(row.route, gate) for gate in gates}
        self.rows.append(row)
