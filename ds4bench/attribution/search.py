"""The search: which ops to measure next, and what their effects prove. No engine, no files.

A configuration is the set of ops that run on the bundle; all others run on the engine's own kernels, and the empty set is
the baseline. ``search`` is a generator that yields configurations and is sent their effects. It finds smallest
sets that show the effect by halving (QuickXplain, Junker 2004: U. Junker, "QuickXplain: preferred explanations and
relaxations for over-constrained problems", AAAI 2004), whole groups of ops first, takes them out and looks again, so it
finds several culprits as well as ops that only do harm together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

OpSet = frozenset[str]


class Effect(StrEnum):
    """What a configuration is, compared with the engine's own kernels."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "no difference"
    UNSURE = "inconclusive"
    INVALID = "invalid"


@dataclass(frozen=True)
class Group:
    """Ops that are switched together first."""

    name: str
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Culprit:
    """A set of ops that shows the effect when nothing else is on the bundle.

    ``sure``: leaving out any of them showed no difference, so that each is needed; a single op always is. Not sure means
    that the true culprit is among them, but measurements that were inconclusive hide which.
    """

    ops: OpSet
    sure: bool


@dataclass
class Findings:
    """What the search has proved so far.

    ``whole`` is the effect of all ops. ``cleared``: ops that were on in a configuration without a difference.
    """

    whole: Effect
    culprits: list[Culprit] = field(default_factory=list)
    cleared: OpSet = frozenset()


Search = Generator[OpSet, Effect, Findings]
_Part = Generator[OpSet, Effect, OpSet]
_Step = Generator[OpSet, Effect, Effect]
_MOST_NEEDED_EACH = 4
"""Of larger sets it is not measured whether each op is needed: one serve each would be too many."""


def search(groups: Sequence[Group], wanted: Effect = Effect.WORSE) -> Search:
    """Measure all ops; where they show ``wanted``, find which make it. Yields no configuration twice."""
    return _Searcher(groups, wanted).run()


class _Searcher:
    def __init__(self, groups: Sequence[Group], wanted: Effect) -> None:
        self.groups = [group for group in groups if group.ops]
        self.wanted = wanted
        self.known: dict[OpSet, Effect] = {}

    def run(self) -> Search:
        ops = frozenset(op for group in self.groups for op in group.ops)
        whole = yield from self._measure(ops)
        found = Findings(whole)
        while ops and self.known[ops] is self.wanted:
            smallest = yield from self._smallest(frozenset(), self._within(ops))
            culprit = yield from self._confirmed(smallest)
            if culprit is None:
                break  # it shows the effect only as part of a larger set, which no further measurement explains
            found.culprits.append(culprit)
            ops -= culprit.ops
            if ops:
                yield from self._measure(ops)
        found.cleared = _union(
            config for config, effect in self.known.items() if effect is not self.wanted and _said(effect)
        )
        found.cleared -= _union(culprit.ops for culprit in found.culprits)
        return found

    def _measure(self, ops: OpSet) -> _Step:
        """Its effect, measured the first time. The empty set is the baseline itself."""
        if not ops:
            return Effect.SAME
        if ops not in self.known:
            self.known[ops] = yield ops
        return self.known[ops]

    def _smallest(self, behind: OpSet, groups: list[Group], *, grown: bool = False) -> _Part:
        """A smallest part of ``groups`` that shows the effect on top of ``behind``; all of them are known to.

        ``grown``: ``behind`` has grown since it was last measured, and may show the effect alone by now.
        """
        if grown and (yield from self._measure(behind)) is self.wanted:
            return frozenset()
        if _count(groups) == 1:
            return frozenset(groups[0].ops)
        left, right = _halves(groups)
        from_right = yield from self._smallest(behind | _ops(left), right, grown=True)
        if from_right and (yield from self._measure(from_right)) is self.wanted:
            return from_right  # alone: most often there is one culprit, and nothing behind it need be asked
        from_left = yield from self._smallest(behind | from_right, left, grown=bool(from_right))
        return from_left | from_right

    def _confirmed(self, ops: OpSet) -> Generator[OpSet, Effect, Culprit | None]:
        """Ops alone must show the effect, and each must be needed. None where even together they do not."""
        if (yield from self._measure(ops)) is not self.wanted:
            return None
        if len(ops) == 1:
            return Culprit(ops, sure=True)
        if len(ops) > _MOST_NEEDED_EACH:
            return Culprit(ops, sure=False)
        sure = True
        for op in sorted(ops):
            without = yield from self._measure(ops - {op})
            if without is self.wanted:
                return (yield from self._confirmed(ops - {op}))
            sure = sure and _said(without)
        return Culprit(ops, sure)

    def _within(self, ops: OpSet) -> list[Group]:
        parts = [Group(group.name, tuple(op for op in group.ops if op in ops)) for group in self.groups]
        return [part for part in parts if part.ops]


def follow(search: Search, effects: Mapping[OpSet, Effect]) -> OpSet | Findings:
    """Play a search with the effects known so far: the next configuration that is to be measured, or the findings."""
    try:
        wanted = next(search)
        while wanted in effects:
            wanted = search.send(effects[wanted])
    except StopIteration as end:
        found: Findings = end.value
        return found
    return wanted


def _said(effect: Effect) -> bool:
    """Whether it is a statement about the ops."""
    return effect in (Effect.WORSE, Effect.BETTER, Effect.SAME)


def _halves(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """Two parts with about as many ops, cut between groups; a single group is cut itself."""
    if len(groups) == 1:
        name, ops = groups[0].name, groups[0].ops
        middle = (len(ops) + 1) // 2
        return [Group(name, ops[:middle])], [Group(name, ops[middle:])]
    total = _count(groups)
    cut = min(range(1, len(groups)), key=lambda place: abs(2 * _count(groups[:place]) - total))
    return groups[:cut], groups[cut:]


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.ops) for group in groups)


def _ops(groups: Sequence[Group]) -> OpSet:
    return frozenset(op for group in groups for op in group.ops)


def _union(sets: Iterable[OpSet]) -> OpSet:
    return frozenset().union(*sets)
