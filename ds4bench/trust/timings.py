"""Request timings of real runs, kept in small files, so that simulated promotions can be repeated anywhere.

A file under ``results/trust/timings`` holds the run values that one comparing rule of a gate's profile judges, [repeats,
strata] (``ratio``) or [repeats, cells] (``geomean_ratio``), and that rule as it was: ``GATE-PROFILE.json`` those of the
gate's first such rule, ``GATE-PROFILE-RULE.json`` those of each other one. Simulated promotions are
judged by the rule as the gate file has it now. Repeats of several sessions are put on the
level of the first: what one build differs by from session to session is the simulation's own parameter. It is estimated
here in two ways, both free of what the repeats' own noise adds: over all sessions, and between neighbours in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ds4bench.core import RunData
from ds4bench.errors import StoreError
from ds4bench.measures import judged_metric, measured_rows
from ds4bench.spec.load import EffectiveGate, effective_from_dict, load_gate
from ds4bench.verdicts.rules.comparison import comparing_rules
from ds4bench.verdicts.rules.geomean_ratio import run_means
from ds4bench.verdicts.rules.ratio import strata

if TYPE_CHECKING:
    from ds4bench.spec.rules import GeomeanRatioRule, RatioRule

SCHEMA = 1


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one rule of one gate. ``columns`` is the cell of each column of ``values``.

    ``spread`` and ``neighbours`` are standard deviations of sessions in logarithms, None with one session. ``levels`` are the
    sessions' own in logarithms, against the first, in the order of ``runs``; ``probes_ms`` the fixed CPU
    probes before their batches (``machine_steady``), empty unless every run has them.
    """

    schema: int
    gate: str
    profile: str
    rule: str
    kind: str
    metric: str
    margin: float
    cell_margin: float | None
    session_cv: float
    repeats: int  # of a promotion, by the gate file
    extend_to: int | None
    runs: list[str]
    machine: str
    spread: float | None
    neighbours: float | None
    columns: list[str]
    values: list[list[float]]
    levels: list[float] = []
    probes_ms: list[list[float]] = []
    machine_drift: float = 0.08


def of_runs(runs: Sequence[RunData]) -> list[Timings]:
    """Timings of complete runs of one gate, one for each rule that compares times, in the gate's order.

    Raises StoreError when the runs are not of one measurement or the gate has no such rule.
    """
    if len({run.manifest.measurement_hash for run in runs}) != 1:
        raise StoreError("these runs are not of one measurement: " + ", ".join(run.manifest.run_id for run in runs))
    gate = effective_from_dict(runs[0].manifest.effective_gate)
    rules = comparing_rules(gate.spec)
    if not rules:
        raise StoreError(f"gate {gate.spec.name} has no rule that compares times with a baseline")
    runs = sorted(runs, key=lambda run: run.manifest.created)
    return [_of_rule(gate, rule, runs) for rule in rules]


def _of_rule(gate: EffectiveGate, rule: RatioRule | GeomeanRatioRule, runs: Sequence[RunData]) -> Timings:
    metric = judged_metric(rule.metric, *(measured_rows(run) for run in runs))
    tables = [_table(gate, rule, metric, run) for run in runs]
    columns = _columns(gate, rule, tables[0][1])
    levels, spreads = _levels([values for values, _ in tables])
    values = [row for (table, _), level in zip(tables, levels, strict=True) for row in _moved(table, levels[0] - level)]
    fingerprint = runs[0].manifest.fingerprint
    hardware = fingerprint.hardware if fingerprint is not None else {}
    return Timings(
        schema=SCHEMA, gate=gate.spec.name, profile=gate.profile, rule=rule.name, kind=rule.kind, metric=metric,
        margin=rule.margin, cell_margin=_cell_margin(rule), session_cv=rule.session_cv, repeats=gate.spec.repeats.count,
        extend_to=gate.spec.repeats.extend_to, runs=[run.manifest.run_id for run in runs],
        machine=f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} cores",
        spread=spreads[0], neighbours=spreads[1],
        columns=columns, values=values, levels=[round(level - levels[0], 6) for level in levels],
        probes_ms=_probes(runs), machine_drift=gate.spec.validity.machine_drift,
    )  # fmt: skip


def _probes(runs: Sequence[RunData]) -> list[list[float]]:
    found = [[round(batch.probe_ms, 3) for batch in run.batches if batch.probe_ms] for run in runs]
    return found if all(found) else []


def _levels(tables: Sequence[Sequence[Sequence[float]]]) -> tuple[list[float], tuple[float | None, float | None]]:
    """Log levels of sessions in the order of time, and how much they differ: over all, and from one to the next.

    The variance of levels, and half the mean square of successive differences (von Neumann 1941), each less the variance
    that the mean of a session's repeats has by itself.
    """
    repeats = [np.log(table).mean(axis=1) for table in tables]
    levels = np.array([float(values.mean()) for values in repeats])
    if len(levels) < 2:
        return levels.tolist(), (None, None)
    own = fmean(float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0 for values in repeats)
    over_all, successive = float(levels.var(ddof=1)), float((np.diff(levels) ** 2).mean()) / 2
    return levels.tolist(), (math.sqrt(max(over_all - own, 0.0)), math.sqrt(max(successive - own, 0.0)))


def write(kept: Sequence[Timings], folder: Path) -> list[Path]:
    """Keep the timings of a gate's rules, the first rule's first; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(one, folder, "" if place == 0 else f"-{one.rule}") for place, one in enumerate(kept)]


def _write(timings: Timings, folder: Path, end: str) -> Path:
    """One repeat a line."""
    plain = msgspec.to_builtins(timings)
    values = plain.pop("values")
    head = msgspec.json.format(msgspec.json.encode(plain), indent=2).decode().removesuffix("\n}")
    rows = ",\n    ".join(msgspec.json.encode([round(value, 6) for value in row]).decode() for row in values)
    path = folder / f"{timings.gate}-{timings.profile}{end}.json"
    path.write_text(f'{head},\n  "values": [\n    {rows}\n  ]\n}}\n')
    return path


def read(path: Path) -> Timings:
    """Read a file and take margins, session noise and repeats from the gate file. Raises StoreError that names the file."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=Timings)
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{path}: not a file of timings: {error}") from error
    gate = load_gate(stored.gate, profile=stored.profile)
    rule = next((rule for rule in comparing_rules(gate.spec) if rule.name == stored.rule), None)
    if rule is None:
        raise StoreError(f"{path}: gate {stored.gate} has no rule {stored.rule} that compares times any more")
    return msgspec.structs.replace(
        stored, margin=rule.margin, cell_margin=_cell_margin(rule), session_cv=rule.session_cv,
        repeats=gate.spec.repeats.count, extend_to=gate.spec.repeats.extend_to,
        machine_drift=gate.spec.validity.machine_drift,
    )  # fmt: skip


def _table(
    gate: EffectiveGate, rule: RatioRule | GeomeanRatioRule, metric: str, run: RunData
) -> tuple[list[list[float]], list[int]]:
    """Values [repeats, columns] of a run, and how many columns each cell has."""
    rows, cells = measured_rows(run), gate.spec.matrix.cells()
    try:
        if rule.kind == "geomean_ratio":
            return run_means(rows, cells, metric), [1] * len(cells)
        return strata(rows, cells, metric), [len(strata(rows, [cell], metric)[0]) for cell in cells]
    except (ValueError, IndexError) as error:
        raise StoreError(f"run {run.manifest.run_id}: {error}") from error


def _columns(gate: EffectiveGate, rule: RatioRule | GeomeanRatioRule, counts: Sequence[int]) -> list[str]:
    return [cell.id for cell, count in zip(gate.spec.matrix.cells(), counts, strict=True) for _ in range(count)]


def _cell_margin(rule: RatioRule | GeomeanRatioRule) -> float | None:
    return rule.cell_margin if rule.kind == "geomean_ratio" else rule.per_cell_margin


def _moved(table: Sequence[Sequence[float]], by: float) -> list[list[float]]:
    return [[value * math.exp(by) for value in row] for row in table]
