"""Two runs beside each other, for example a local serve and the hosted API: what differs and how surely, without a verdict.

Scores are paired by cell and the script's key, each the mean over its repeats. Where several cells ask the same items, as the
modes of ToolCall-15, every cell is a comparison of its own: a loss in one must not be hidden by a gain in another. Latencies
are ratios of the client's own measurements. What cannot be compared is refused with the reason, part by part: another model
makes scores incomparable, another machine is the point.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, geometric_mean

import numpy as np

from ds4bench.core import Fingerprint, RequestRow, RunData, Verdict
from ds4bench.measures import measured_rows, measured_scripts
from ds4bench.stats.paired import (
    Interval,
    mcnemar,
    paired_bootstrap,
    paired_counts,
    sign_flip_loss,
    tango_interval,
)
from ds4bench.stats.rank import RankReport, rank_report
from ds4bench.stats.two_level import two_level_ratio
from ds4bench.verdicts.comparability import differences

LATENCIES = {"ttft_s": "TTFT", "tpot_ms": "TPOT", "e2e_s": "E2E"}
"""TPOT from usage: ``tpot_decode_ms`` needs a running token count, which the hosted API does not send."""
_SESSION_CV = 0.02
"""What a restart changes, as a stated prior: one session of each side cannot show it."""
_FEWEST_ITEMS = 3
Item = tuple[str, str]
"""Cell and key."""


@dataclass(frozen=True)
class ScoreComparison:
    """One score over the paired items: means, and the difference second - first with its two-sided 90 % interval.

    ``cell`` is None where the cells are batches of different items: all are one comparison. ``p`` is two-sided: exact
    McNemar for pass/fail, exact or random sign flips else; None with fewer than 3 items. ``pairs`` are the scores of each
    item, (first, second).
    """

    name: str
    cell: str | None
    items: int
    first: float
    second: float
    interval: Interval | None
    p: float | None
    lost: list[str]
    won: list[str]
    pairs: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class LatencyComparison:
    """One latency of one cell: geometric means, ratio second / first with its 90 % interval where repeats allow one.

    ``rank`` is Mann-Whitney's test of the repeats' means, second against first, from two repeats a side on: free of any
    assumption about their distribution, and too weak with few of them to decide anything (``smallest_p``).
    """

    cell: str
    metric: str
    first: float
    second: float
    ratio: float
    low: float | None
    high: float | None
    rank: RankReport | None = None


@dataclass(frozen=True)
class Comparison:
    """What could be compared, and why the rest could not."""

    scores: list[ScoreComparison] = field(default_factory=list)
    latencies: list[LatencyComparison] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def side_by_side(first: RunData, second: RunData, *, other_model: bool = False) -> Comparison:
    """Compare two runs. ``other_model`` compares scores although the models differ, on purpose."""
    common = _common_reasons(first, second)
    if common:
        return Comparison(refused={"everything": common})
    scores, score_refusal = _scores(first, second, other_model)
    latencies, latency_refusal = _latencies(first, second)
    refused = {part: why for part, why in (("scores", score_refusal), ("latency", latency_refusal)) if why}
    return Comparison(scores, latencies, refused, _notes(first, second))


def same_model(first: Fingerprint, second: Fingerprint) -> list[str]:
    """Why the two served models are not the same one, as far as their names tell; empty when they may be.

    ``deepseek-ai/DeepSeek-V4-Flash`` and ``deepseek-v4-flash`` are one name; a hosted id that was pointed at another model
    counts as that one.
    """
    ours, theirs = _served(first), _served(second)
    if ours == theirs:
        return []
    return [f"the first run was served by {ours}, the second by {theirs}"]


def _served(fingerprint: Fingerprint) -> str:
    name = str(fingerprint.flags.get("rerouted_to") or fingerprint.model)
    return name.rstrip("/").rpartition("/")[2].lower().replace("_", "-")


def _common_reasons(first: RunData, second: RunData) -> list[str]:
    ours, theirs = first.manifest, second.manifest
    reasons = []
    if ours.gate != theirs.gate:
        return [f"the gates differ: {ours.gate} and {theirs.gate}"]
    if ours.metric_schema != theirs.metric_schema:
        reasons.append("their metrics are defined differently (measured by different versions of ds4bench)")
    reasons += [f"{key} was {a!r} and {b!r}" for key, a, b in differences(ours.measurement, theirs.measurement)]
    for place, run in (("first", first), ("second", second)):
        if run.manifest.fingerprint is None:
            reasons.append(f"the serve of the {place} run was not identified")
        if not any(batch.phase == "measure" for batch in run.batches):
            reasons.append(f"the {place} run has no complete batch")
        if run.verdict is not None and run.verdict.verdict is Verdict.INVALID:
            reasons.append(f"the {place} run is INVALID: {run.verdict.sentence}")
    return reasons


def _scores(first: RunData, second: RunData, other_model: bool) -> tuple[list[ScoreComparison], list[str]]:
    ours, theirs = _scored_items(first), _scored_items(second)
    if not ours and not theirs:
        return [], []
    reasons = [] if other_model else _model_reasons(first, second)
    for name in sorted(ours.keys() | theirs.keys()):
        missing = [_item_name(item) for item in ours.get(name, {}).keys() ^ theirs.get(name, {}).keys()]
        if missing:
            some = ", ".join(sorted(missing)[:3])
            reasons.append(
                f"{name}: {len(missing)} items are in one run only ({some}{', ...' if len(missing) > 3 else ''})"
            )
    if reasons:
        return [], reasons
    return [score for name in sorted(ours) for score in _by_mode(name, ours[name], theirs[name])], []


def _model_reasons(first: RunData, second: RunData) -> list[str]:
    ours, theirs = first.manifest.fingerprint, second.manifest.fingerprint
    assert ours is not None
    assert theirs is not None
    return [f"{why} (--other-model compares them all the same)" for why in same_model(ours, theirs)]


def _scored_items(run: RunData) -> dict[str, dict[Item, float]]:
    """Score name -> item -> mean over its repeats, from scripts and, where a workload reads single replies, from requests."""
    found: defaultdict[str, defaultdict[Item, list[float]]] = defaultdict(lambda: defaultdict(list))
    for script in measured_scripts(run):
        for name, value in (script.answer.scores if script.answer else {}).items():
            found[name][script.cell, script.key].append(value)
    if not found:
        for row in measured_rows(run):
            for name, value in (row.answer.scores if row.answer else {}).items():
                found[name][row.cell, f"{row.cell}/{row.index}"].append(value)
    return {name: {item: fmean(values) for item, values in items.items()} for name, items in found.items()}


def _item_name(item: Item) -> str:
    cell, key = item
    return key if key.startswith(f"{cell}/") else f"{cell}/{key}"


def _by_mode(name: str, first: Mapping[Item, float], second: Mapping[Item, float]) -> list[ScoreComparison]:
    """One comparison a cell, in the order of the run; one over all items where each stands in one of several cells."""
    cells = dict.fromkeys(cell for cell, _ in first)
    keys = {key for _, key in first}
    if len(cells) > 1 and len(keys) == len(first):
        return [_score(name, None, {item[1]: (value, second[item]) for item, value in first.items()})]
    return [
        _score(name, cell, {item[1]: (value, second[item]) for item, value in first.items() if item[0] == cell})
        for cell in cells
    ]


def _score(name: str, cell: str | None, pairs: Mapping[str, tuple[float, float]]) -> ScoreComparison:
    keys = sorted(pairs)
    ours, theirs = (np.array([pairs[key][side] for key in keys]) for side in (0, 1))
    lost = [key for key in keys if pairs[key][1] < pairs[key][0]]
    won = [key for key in keys if pairs[key][1] > pairs[key][0]]
    interval, p = None, None
    if len(keys) >= _FEWEST_ITEMS:
        if np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
            counts = paired_counts(theirs, ours)
            interval, p = tango_interval(counts), mcnemar(counts.lost, counts.won)
        else:
            interval = paired_bootstrap(theirs, ours)
            p = min(1.0, 2 * min(sign_flip_loss(theirs, ours), sign_flip_loss(ours, theirs)))
    return ScoreComparison(
        name, cell, len(keys), float(ours.mean()), float(theirs.mean()), interval, p, lost, won,
        {key: pairs[key] for key in keys},
    )  # fmt: skip


def _latencies(first: RunData, second: RunData) -> tuple[list[LatencyComparison], list[str]]:
    ours, theirs = _by_cell(first), _by_cell(second)
    if ours.keys() != theirs.keys():
        return [], [f"the cells differ: {', '.join(sorted(ours.keys() ^ theirs.keys()))} in one run only"]
    compared = [
        _latency(cell, metric, ours[cell], theirs[cell]) for cell in ours for metric in LATENCIES
    ]  # fmt: skip
    return [item for item in compared if item is not None], []


def _latency(
    cell: str, metric: str, first: Sequence[RequestRow], second: Sequence[RequestRow]
) -> LatencyComparison | None:
    ours, theirs = _repeats(first, metric), _repeats(second, metric)
    if not ours or not theirs:
        return None
    means = [[geometric_mean(repeat) for repeat in side] for side in (ours, theirs)]
    a, b = (geometric_mean(side) for side in means)
    rank = rank_report(means[1], means[0]) if min(map(len, means)) > 1 else None
    try:
        estimate = two_level_ratio(theirs, ours, session_cv=_SESSION_CV)
    except ValueError:  # too few repeats for an interval
        return LatencyComparison(cell, metric, a, b, b / a, None, None, rank)
    return LatencyComparison(cell, metric, a, b, estimate.ratio, estimate.low, estimate.high, rank)


def _repeats(rows: Sequence[RequestRow], metric: str) -> list[list[float]]:
    repeats: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row.result, metric)
        if row.result.ok and value is not None and value > 0:
            repeats[row.repeat].append(value)
    return [repeats[number] for number in sorted(repeats)]


def _by_cell(run: RunData) -> dict[str, list[RequestRow]]:
    cells: dict[str, list[RequestRow]] = {}
    for row in measured_rows(run):
        cells.setdefault(row.cell, []).append(row)
    return cells


def _notes(first: RunData, second: RunData) -> list[str]:
    ours, theirs = first.manifest.fingerprint, second.manifest.fingerprint
    assert ours is not None
    assert theirs is not None
    notes = []
    if ours.local != theirs.local:
        notes.append("one serve is remote: its latencies include the network, and TTFT its queue of other users")
    for name, words in (("prefix_caching", "prefix caching"), ("speculation", "speculative decoding")):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a != b:
            notes.append(f"{words} is {_word(a)} in the first run, {_word(b)} in the second")
    for place, fingerprint in (("first", ours), ("second", theirs)):
        if fingerprint.faults:
            notes.append(f"the {place} run was measured with injected faults: {', '.join(fingerprint.faults)}")
    return notes


def _word(value: object) -> str:
    return "unknown" if value is None else str(value)
