"""From scores to the numbers that a report shows: cases, categories, totals, stars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ds4bench.errors import WorkloadError
from ds4bench.workloads.toolcall15.rules import Score, score, variant_of
from ds4bench.workloads.toolcall15.scenario import Battery, Variant, load_battery
from ds4bench.workloads.toolcall15.trace import Trace

FULL = 2
"""Points of a conversation at best."""
_STARS = ((90, 5), (75, 4), (60, 3), (40, 2))

CaseLabel = Literal["pass", "partial", "fail", "error", "flaky"]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario in one mode over all rounds. ``unique``: different traces; equal ones are one sample, not several."""

    scenario: str
    category: str
    mode: str
    label: CaseLabel
    points: list[int]
    unique: int
    reason: str  # of the worst round
    missed: list[str] = []
    diagnoses: list[str] = []


class CategoryScore(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one category. ``percent`` is rounded, as the benchmark does before it takes the mean."""

    category: str
    title: str
    earned: int
    possible: int
    percent: int


class ModeScore(msgspec.Struct, frozen=True, kw_only=True):
    """One mode, or all modes together (``all``)."""

    mode: str
    percent: int
    stars: int
    earned: int
    possible: int
    conversations: int
    unique: int
    not_full: int  # conversations below full points: what the harness of v1-jasl counts as failures
    errors: int
    truncated: int
    categories: list[CategoryScore]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one set of traces under one rule set. A percentage never stands without ``rules``."""

    rules: str
    total: ModeScore
    modes: list[ModeScore]
    cases: list[Case]
    incomplete: list[str]  # categories or scenarios without a conversation: such a total is not the benchmark's

    @property
    def sentence(self) -> str:
        """One line for a person."""
        t = self.total
        same = "" if t.unique == t.conversations else f", {t.unique} different"
        gap = f"; INCOMPLETE: no {', '.join(self.incomplete)}" if self.incomplete else ""
        return (
            f"ToolCall-15 {t.percent} % ({t.earned} of {t.possible} points, {t.conversations} conversations{same}) "
            f"by the rules {self.rules}{gap}"
        )


class Rescored(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of single conversations and what they add up to."""

    scores: list[Score]
    summary: Summary


def rescore(traces: Iterable[Trace], rules: str, battery: Battery | None = None) -> Rescored:
    """Score stored traces by a rule set, whichever they were scored by before. Needs no serve.

    Raises WorkloadError for an unknown rule set or scenario, or when there is no trace.
    """
    battery = battery or load_battery()
    scores = [score(trace, battery, rules) for trace in traces]
    return Rescored(scores=scores, summary=summarise(scores, battery))


def summarise(scores: Sequence[Score], battery: Battery) -> Summary:
    """Add scores up. Raises WorkloadError when there are none, or when they are of different rule sets."""
    names = sorted({item.rules for item in scores})
    if len(names) != 1:
        problem = f"of different rule sets ({', '.join(names)})" if names else "there are none"
        raise WorkloadError(f"tool-call scores cannot be added up: {problem}")
    rules = variant_of(names[0])
    modes = list(dict.fromkeys(item.mode for item in scores))
    held = {item.scenario for item in scores}
    return Summary(
        rules=rules,
        total=_mode_score("all", scores, rules, battery),
        modes=[_mode_score(mode, [s for s in scores if s.mode == mode], rules, battery) for mode in modes],
        cases=_cases(scores),
        incomplete=[name for name in battery.files if name not in held],
    )


def units(scores: Iterable[Score]) -> dict[tuple[str, str, int], int]:
    """Points by (scenario, mode, round): the pairs that a comparison with a baseline is made of."""
    return {(item.scenario, item.mode, item.round): item.points for item in scores}


def stars(percent: int) -> int:
    """One to five, by the benchmark's steps."""
    return next((count for least, count in _STARS if percent >= least), 1)


def _mode_score(mode: str, scores: Sequence[Score], rules: Variant, battery: Battery) -> ModeScore:
    categories = _categories(scores, battery)
    earned = sum(item.points for item in scores)
    by_category = battery.shared.rule_sets[rules].total == "category_mean"
    shares = [float(category.percent) for category in categories] if by_category else [_share(earned, len(scores))]
    percent = _rounded(sum(shares) / len(shares))
    return ModeScore(
        mode=mode,
        percent=percent,
        stars=stars(percent),
        earned=earned,
        possible=FULL * len(scores),
        conversations=len(scores),
        unique=len({item.fingerprint for item in scores}),
        not_full=sum(item.points < FULL for item in scores),
        errors=sum(item.label == "error" for item in scores),
        truncated=sum("truncated" in item.diagnoses for item in scores),
        categories=categories,
    )


def _categories(scores: Sequence[Score], battery: Battery) -> list[CategoryScore]:
    """Of the categories that have conversations. With one round of one mode each has 6 possible points."""
    found = []
    for category, title in battery.shared.categories.items():
        points = [item.points for item in scores if item.category == category]
        if points:
            share = _rounded(_share(sum(points), len(points)))
            found.append(
                CategoryScore(
                    category=category, title=title, earned=sum(points), possible=FULL * len(points), percent=share
                )
            )
    return found


def _cases(scores: Sequence[Score]) -> list[Case]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for item in scores:
        groups.setdefault((item.scenario, item.mode), []).append(item)
    return [_case(group) for _, group in sorted(groups.items())]


def _case(group: Sequence[Score]) -> Case:
    worst = min(group, key=lambda item: (item.points, item.label != "error"))
    labels = {item.label for item in group}
    return Case(
        scenario=worst.scenario,
        category=worst.category,
        mode=worst.mode,
        label=worst.label if len(labels) == 1 else "flaky",
        points=[item.points for item in sorted(group, key=lambda item: item.round)],
        unique=len({item.fingerprint for item in group}),
        reason=worst.reason,
        missed=worst.missed,
        diagnoses=sorted({name for item in group for name in item.diagnoses}),
    )


def _share(points: int, conversations: int) -> float:
    return 100 * points / (FULL * conversations)


def _rounded(value: float) -> int:
    """Half a point goes up, as the public benchmark rounds."""
    return math.floor(value + 0.5)
