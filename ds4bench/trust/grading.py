"""What a gate said about a broken serve, and whether that is what it must say. Pure, with the file that keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from ds4bench.core import CheckStatus, GateVerdict, Verdict
from ds4bench.spec.gate import GateSpec
from ds4bench.store import documents
from ds4bench.trust.expectations import Row

SCHEMA = 1
_TIMED_KINDS = frozenset({"ratio", "geomean_ratio", "limit", "scaling"})
_TIMED_CHECKS = frozenset({"client_not_starved", "machine_quiet", "gpu_quiet", "machine_steady"})
_BAD = ("FAIL", "INVALID")


class Grade(StrEnum):
    """One gate against one row. ``OTHER``: it did not pass the serve, but for a reason that is not the fault's."""

    CAUGHT = "caught"
    OTHER = "other reason"
    MISSED = "missed"
    HELD = "held"
    BLAMED = "blamed"
    OPEN = "open"
    SEEN = "seen"  # nothing was expected of this gate


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one gate said. ``reasons`` are the checks and rules that failed. ``busy``: the machine was not asked to be
    quiet, so that rules about times and checks of the client say nothing and are not among the reasons."""

    verdict: str
    reasons: list[str]
    sentence: str
    run: str | None
    seconds: float
    measurement: str
    busy: bool = False


class Matrix(msgspec.Struct, kw_only=True):
    """``results/trust/faults.json``: row -> gate -> what was seen."""

    schema: int = SCHEMA
    machine: str = ""
    cells: dict[str, dict[str, Seen]] = {}


def seen_of(verdict: GateVerdict, spec: GateSpec, *, run: str, seconds: float, measurement: str, busy: bool) -> Seen:
    """What a verdict says, in short."""
    timed = {rule.name for rule in spec.rules if rule.kind in _TIMED_KINDS} | _TIMED_CHECKS
    checks = [check.name for check in verdict.checks if check.status is CheckStatus.FAILED]
    rules = [rule.rule for rule in verdict.rules if rule.verdict is Verdict.FAIL]
    reasons = [name for name in dict.fromkeys([*checks, *rules]) if not (busy and name in timed)]
    word = verdict.verdict.value
    if busy and word in _BAD and not reasons:
        word = Verdict.INCONCLUSIVE.value
    return Seen(
        verdict=word, reasons=reasons, sentence=verdict.sentence, run=run, seconds=round(seconds, 1),
        measurement=measurement, busy=busy,
    )  # fmt: skip


def grade(row: Row, gate: str, seen: Seen | None) -> Grade:
    """What the gate's outcome means for the row."""
    if seen is None:
        return Grade.OPEN
    bad = seen.verdict in _BAD
    if row.must_hold(gate):
        return Grade.BLAMED if bad else Grade.HELD if seen.verdict == "PASS" else Grade.OPEN
    wanted = row.expected.get(gate)
    if wanted is None:
        return Grade.SEEN
    if bad:
        return Grade.CAUGHT if set(wanted) & set(seen.reasons) else Grade.OTHER
    return Grade.MISSED if seen.verdict == "PASS" else Grade.OPEN


def row_state(row: Row, cells: Mapping[str, Seen]) -> tuple[str, str]:
    """(``ok``, ``defect`` or ``open``, why) of a row with what has been measured so far."""
    grades = {gate: grade(row, gate, seen) for gate, seen in cells.items()}
    blamed = [gate for gate, found in grades.items() if found is Grade.BLAMED]
    if blamed:
        return "defect", f"{', '.join(blamed)} must not mind"
    if row.expected:
        caught = [gate for gate, found in grades.items() if found is Grade.CAUGHT]
        if caught:
            return "ok", f"caught by {', '.join(caught)}"
        left = [gate for gate in row.expected if grades.get(gate, Grade.OPEN) is Grade.OPEN]
        if left:
            return "open", f"not decided: {', '.join(left)}"
        return "defect", "caught by none of its gates"
    held = [gate for gate, found in grades.items() if found is Grade.HELD]
    wanted = list(cells) if row.holds == "all" else list(row.holds)
    left = [gate for gate in wanted if gate not in held]
    if left or not held:
        return "open", f"not decided: {', '.join(left) or 'nothing was measured'}"
    return "ok", f"{len(held)} gates do not mind"


def load(path: Path) -> Matrix:
    """The matrix as it is on disk, an empty one if there is none. Raises StoreError for a damaged file."""
    if not path.exists():
        return Matrix()
    return documents.read(path, Matrix, SCHEMA, hint="; remove it to begin anew")


def save(matrix: Matrix, path: Path) -> None:
    """Write the file whole or not at all."""
    documents.write(path, matrix, indent=1)


def matrix_table(rows: Sequence[Row], matrix: Matrix) -> str:
    """Markdown: a line a row, what each gate said, **bold** where that was expected of it."""
    lines = ["| serve | what the gates said | outcome |", "|---|---|---|"]
    for row in rows:
        cells = matrix.cells.get(row.name, {})
        said = [_said(row, gate, seen) for gate, seen in cells.items()]
        state, why = row_state(row, cells)
        lines.append(f"| {row.name} | {'; '.join(said) or 'not run'} | {state}: {why} |")
    return "\n".join(lines) + "\n"


def _said(row: Row, gate: str, seen: Seen) -> str:
    why = f" ({', '.join(seen.reasons)})" if seen.reasons else ""
    text = f"{gate} {seen.verdict}{why}{' [busy]' if seen.busy else ''}"
    return f"**{text}**" if grade(row, gate, seen) in (Grade.CAUGHT, Grade.HELD) else text
