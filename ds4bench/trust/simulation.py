"""Simulated promotions from stored timings: how often an unchanged build fails, how often a worse one is caught.

Every promotion is judged by the functions that judge a real one (``stats/simulate.py``): an overall endpoint, and here also
the gate's single cells after Holm, which can fail a gate too. Everything is seeded; nothing reads a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds4bench.core import Verdict
from ds4bench.stats.decision import levels, under_twice_the_noise, verdict_of_ratio
from ds4bench.stats.holm import holm_adjust
from ds4bench.stats.ratio import ratio_estimate
from ds4bench.stats.sequential import Plan, default_looks
from ds4bench.stats.simulate import RatioRule, Source, VerdictRates, simulate_ratio, simulate_sequence
from ds4bench.trust.sessions import NormalSessions, SeenSessions, Sessions
from ds4bench.trust.timings import Timings

SLOWDOWNS = (0.0, 0.03, 0.05, 0.10, 0.20)
REPEATS = (3, 5, 7, 10)
NOISES = (0.01, 0.02, 0.04)
DROPS = (0.0, 0.01, 0.02, 0.05, 0.25)
FLIPS = (0.02, 0.04, 0.08)
BUDGETS = (200, 1319)
ACCURACY = 0.955
"""Of the stored answers that are simulated: GSM8K's published strict match of the model."""
_RESAMPLES = 1_000
AS_ASSUMED, IN_A_ROW, OVER_ALL, WITH_PROBE = (
    "as assumed",
    "as seen in a row",
    "as seen over all",
    "as seen, with the CPU probe",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class GateRates:
    """Verdicts of simulated promotions by one comparing rule; ``by_cell`` is the share that a single cell alone failed."""

    passed: float
    failed: float
    inconclusive: float
    by_cell: float


def aa_table(stored: Sequence[Timings], *, promotions: int, seed: int = 0) -> list[Row]:
    """Unchanged builds, one row a gate's rule and truth about sessions: as the gate assumes them, and as they were seen.

    Neighbours in time are what a baseline and its candidate are that are measured one after the other; all sessions are
    what they are when the baseline is older. Where the CPU probe of each session is stored, pairs of real sessions are
    drawn too, and those between which it moved too far are INCONCLUSIVE (``machine_steady``); the other rows know no probe.
    """
    rows = []
    for timings in stored:
        source = Source.of_run(timings.values)
        truths: dict[str, tuple[Sessions, float | None]] = {
            AS_ASSUMED: (NormalSessions(timings.session_cv), timings.session_cv)
        }
        if timings.neighbours is not None and timings.spread is not None:
            truths[IN_A_ROW] = NormalSessions(timings.neighbours), timings.neighbours
            truths[OVER_ALL] = NormalSessions(timings.spread), timings.spread
        if timings.probes_ms:
            truths[WITH_PROBE] = SeenSessions(timings.levels, timings.probes_ms, timings.machine_drift), None
        for word, (sessions, truth) in truths.items():
            rates = simulate_gate(timings, source, sessions=sessions, promotions=promotions, seed=seed)
            noise = float(np.std(np.log(timings.values).mean(axis=1), ddof=1))
            true_cv = None if truth is None else round(truth, 4)
            rows.append(
                {
                    "gate": timings.gate, "profile": timings.profile, "rule": timings.rule, "margin": timings.margin,
                    "repeats": timings.repeats, "stored_repeats": len(timings.values), "stored_runs": len(timings.runs),
                    "noise_cv": round(noise, 4), "sessions": word, "true_session_cv": true_cv,
                    "promotions": promotions, **_rounded(asdict(rates)),
                }
            )  # fmt: skip
    return rows


def simulate_gate(
    timings: Timings, source: Source, *, slowdown: float = 0.0, sessions: Sessions, promotions: int, seed: int = 0
) -> GateRates:
    """Promotions by one comparing rule of a gate: its endpoint (with the declared extension) and its cells.

    An INCONCLUSIVE first look is followed by the second, as the runner does it; cells are judged with the look that ended
    the run. A geometric mean whose margin is under twice the noise does not pass. Nothing is decided between two sessions of
    which the machine was slower in one.
    """
    rng = np.random.default_rng(seed)
    count, most = timings.repeats, max(timings.repeats, timings.extend_to or 0)
    pairs = sessions.draw(promotions, rng)
    ours = np.exp(source.draw(promotions, most, rng) + np.log1p(slowdown) + pairs.ours[:, None, None])
    theirs = np.exp(source.draw(promotions, count, rng) + pairs.theirs[:, None, None])
    outcomes, by_cell = Counter[Verdict](), 0
    for k in range(promotions):
        if not pairs.steady[k]:
            outcomes[Verdict.INCONCLUSIVE] += 1
            continue
        verdict, size = _endpoint(timings, ours[k], theirs[k], seed + k)
        bad_cell = _cell_fails(timings, ours[k][:size], theirs[k], seed + k)
        by_cell += bad_cell and verdict is not Verdict.FAIL
        outcomes[Verdict.FAIL if bad_cell else verdict] += 1
    shares = [outcomes[v] / promotions for v in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)]
    return GateRates(shares[0], shares[1], shares[2], by_cell / promotions)


def power_table(stored: Sequence[Timings], *, promotions: int, seed: int = 0) -> list[Row]:
    """Slowdown x repeats -> verdict rates at a margin of 5 %, for set noises and for each stored gate as it is."""
    rows = []
    shape = np.asarray(stored[0].values) if stored else _made_up()
    for noise in NOISES:
        source = Source.of_run(shape, noise_cv=noise)
        for repeats in REPEATS:
            rule = RatioRule(margin=0.05, session_cv=0.01, candidate_repeats=repeats, baseline_repeats=repeats)
            for slowdown in SLOWDOWNS:
                rates = simulate_ratio(
                    source, rule, slowdown=slowdown, true_session_cv=0.01, promotions=promotions, seed=seed
                )
                rows.append(
                    {"kind": "slowdown", "noise_cv": noise, "margin": 0.05, "repeats": repeats, "truth": slowdown}
                    | _shares(rates)
                )
    for timings in stored:
        for slowdown in SLOWDOWNS:
            gate = simulate_gate(
                timings, Source.of_run(timings.values), slowdown=slowdown, sessions=NormalSessions(timings.session_cv),
                promotions=promotions, seed=seed,
            )  # fmt: skip
            rows.append(
                {"kind": "gate", "gate": timings.gate, "profile": timings.profile, "rule": timings.rule,
                 "margin": timings.margin, "repeats": timings.repeats, "truth": slowdown} | _rounded(asdict(gate))
            )  # fmt: skip
    return rows


def accuracy_table(*, promotions: int, flips: float = 0.04, seed: int = 0) -> list[Row]:
    """Accuracy drop x budget of questions -> verdict rates of the sequential rule, and how many questions it took."""
    rows = []
    for budget in BUDGETS:
        for drop in DROPS:
            rates = _sequence(budget, drop, flips, promotions, seed)
            rows.append(
                {"kind": "accuracy", "questions": budget, "margin": 0.015, "flips": flips, "truth": drop}
                | _shares(rates) | _sizes(rates)
            )  # fmt: skip
    return rows


def sequential_table(*, promotions: int, seed: int = 0) -> list[Row]:
    """Questions to a verdict for an unchanged and a 5-points-worse model, against the fixed 1,319."""
    rows = []
    for flips in FLIPS:
        for drop in (0.0, 0.05):
            rates = _sequence(1319, drop, flips, promotions, seed)
            saved = 1 - rates.mean_size / 1319
            rows.append({"flips": flips, "truth": drop, "fixed": 1319} | _shares(rates) | _sizes(rates)
                        | {"saved": round(saved, 3)})  # fmt: skip
    return rows


def stored_answers(budget: int, accuracy: float = ACCURACY, seed: int = 0) -> NDArray[np.bool_]:
    """Right and wrong answers of a baseline in a random order, exactly so many right."""
    answers = np.zeros(budget, dtype=np.bool_)
    answers[: round(accuracy * budget)] = True
    return np.random.default_rng(seed).permutation(answers)


def _sequence(budget: int, drop: float, flips: float, promotions: int, seed: int) -> VerdictRates:
    plan = Plan(looks=default_looks(budget))
    return simulate_sequence(
        stored_answers(budget, seed=seed), plan, flips=flips, loss=drop, promotions=promotions, seed=seed
    )


def _endpoint(
    timings: Timings, ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int
) -> tuple[Verdict, int]:
    looks = [timings.repeats] + ([len(ours)] if len(ours) > timings.repeats else [])
    level, verdict, size = levels(len(looks)), Verdict.INCONCLUSIVE, timings.repeats
    for size in looks:
        estimate = ratio_estimate(
            ours[:size], theirs, session_cv=timings.session_cv, confidence=level.confidence, resamples=_RESAMPLES,
            seed=seed,
        )  # fmt: skip
        verdict = verdict_of_ratio(
            estimate, timings.margin, session_cv=timings.session_cv, fail_level=level.fail_level
        ).verdict
        if (
            verdict is Verdict.PASS
            and timings.kind == "geomean_ratio"
            and under_twice_the_noise(timings.margin, estimate)
        ):
            verdict = Verdict.INCONCLUSIVE
        if verdict is not Verdict.INCONCLUSIVE:
            break
    return verdict, size


def _cell_fails(timings: Timings, ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int) -> bool:
    """Whether any cell alone is beyond its wider limit after Holm over the cells."""
    if timings.cell_margin is None:
        return False
    level = levels(2 if timings.extend_to and timings.extend_to >= timings.repeats else 1)
    columns, decisions = np.asarray(timings.columns), []
    for cell in dict.fromkeys(timings.columns):
        where = columns == cell
        estimate = ratio_estimate(
            ours[:, where], theirs[:, where], session_cv=timings.session_cv, confidence=level.confidence,
            resamples=_RESAMPLES, seed=seed,
        )  # fmt: skip
        decisions.append(
            verdict_of_ratio(estimate, timings.cell_margin, session_cv=timings.session_cv, fail_level=level.fail_level)
        )
    adjusted = holm_adjust([decision.p_no_worse for decision in decisions])
    return any(d.verdict is Verdict.FAIL and p <= level.fail_level for d, p in zip(decisions, adjusted, strict=True))


def _made_up() -> NDArray[np.float64]:
    """A run of 12 repeats and 10 strata, for power tables of set noises when no timings are stored."""
    rng = np.random.default_rng(0)
    return np.asarray(np.exp(rng.normal(0, 0.02, (12, 1)) + rng.normal(0, 0.02, (12, 10))))


def _shares(rates: VerdictRates) -> Row:
    return {
        "promotions": rates.promotions, "passed": round(rates.passed, 4), "failed": round(rates.failed, 4),
        "inconclusive": round(rates.inconclusive, 4),
    }  # fmt: skip


def _sizes(rates: VerdictRates) -> Row:
    return {"mean_questions": round(rates.mean_size, 1), "median_questions": round(rates.median_size, 1)}


def _rounded(row: Row) -> Row:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
