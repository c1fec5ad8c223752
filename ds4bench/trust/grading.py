"""What a gate said about a broken serve, and whether that is what it must say. Pure, with the file that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from ds4bench.core import CheckStatus, GateVerdict, Verdict
from ds4bench.spec.gate import GateSpec
from ds4bench.store import documents
from ds4bench.trust.expectations import Row

SCHEMA = 1
_TIMED_KINDS = frozenset({"ratio", "geomean_ratio", "limit", "scaling"})
_TIMED_CHECKS = frozenset({"warmed_up", "client_not_starved", "machine_quiet", "gpu_quiet", "machine_steady"})
_BAD = ("FAIL", "INVALID")

GateHashes = Callable[[str], str]
"""From a gate's name to the hash of the gate as it is now (``matrix_gates.MatrixGates.hash_of``)."""


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
    quiet, so that rules about times and checks of the client say nothing and are not among the reasons. ``commit`` is
    that of the code, ``gate`` the hash of the gate with its rules, validity and repeats; None in files without them."""

    verdict: str
    reasons: list[str]
    sentence: str
    run: str | None
    seconds: float
    measurement: str
    busy: bool = False
    commit: str | None = None
    gate: str | None = None

    def stale(self, gate: str, now: GateHashes) -> bool:
        """Whether another gate than ``gate`` is now said this, or nobody knows which: it has to be measured again."""
        return self.gate is None or self.gate != now(gate)


class Matrix(msgspec.Struct, kw_only=True):
    """``results/trust/faults.json``: row -> gate -> what was seen."""

    schema: int = SCHEMA
    machine: str = ""
    cells: dict[str, dict[str, Seen]] = {}


def seen_of(
    verdict: GateVerdict, spec: GateSpec, *, run: str, seconds: float, measurement: str, busy: bool,
    commit: str | None = None, gate: str | None = None,
) -> Seen:  # fmt: skip
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
        measurement=measurement, busy=busy, commit=commit, gate=gate,
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
    """(``ok``, ``defect`` or ``open``, why) of a row with what has been measured so far.

    A fault that was caught leaves the row open while a gate that must hold is not decided.
    """
    grades = {gate: grade(row, gate, seen) for gate, seen in cells.items()}
    blamed, caught, held = (_graded(grades, word) for word in (Grade.BLAMED, Grade.CAUGHT, Grade.HELD))
    if blamed:
        return "defect", f"{', '.join(blamed)} must not mind"
    left = [gate for gate in (list(cells) if row.holds == "all" else row.holds) if gate not in held]
    if row.expected and not caught:
        may_catch = [gate for gate in row.expected if grades.get(gate, Grade.OPEN) is Grade.OPEN]
        if not may_catch:
            return "defect", "caught by none of its gates"
        return "open", f"not decided: {', '.join(may_catch + left)}"
    done = f"caught by {', '.join(caught)}" if caught else f"{len(held)} gates do not mind" if held else ""
    if left or not done:
        undecided = f"not decided: {', '.join(left) or 'nothing was measured'}"
        return "open", f"{done}; {undecided}" if caught else undecided
    return "ok", done


def row_outcome(row: Row, cells: Mapping[str, Seen], now: GateHashes) -> tuple[str, str]:
    """``row_state`` of what the gates as they are now have said; ``stale`` where only older cells decide the row."""
    fresh = {gate: seen for gate, seen in cells.items() if not seen.stale(gate, now)}
    found, before = row_state(row, fresh), row_state(row, cells)
    whole = row.holds != "all" or len(fresh) == len(cells)
    if found[0] == "defect" or before[0] == "open" or (found[0] == "ok" and whole):
        return found
    return "stale", f"{before[1]}, before these gates were what they are now: measure again"


def _graded(grades: Mapping[str, Grade], word: Grade) -> list[str]:
    return [gate for gate, found in grades.items() if found is word]


def load(path: Path) -> Matrix:
    """The matrix as it is on disk, an empty one if there is none. Raises StoreError for a damaged file."""
    if not path.exists():
        return Matrix()
    return documents.read(path, Matrix, SCHEMA, hint="; remove it to begin anew")


def save(matrix: Matrix, path: Path) -> None:
    """Write the file whole or not at all."""
    documents.write(path, matrix, indent=1)


def matrix_table(rows: Sequence[Row], matrix: Matrix, now: GateHashes) -> str:
    """Markdown: a line a row, what each gate said, **bold** where that was expected of it, ``[stale]`` where the gate is
    another one now."""
    lines = ["| serve | what the gates said | outcome |", "|---|---|---|"]
    for row in rows:
        cells = matrix.cells.get(row.name, {})
        said = [_said(row, gate, seen, now) for gate, seen in cells.items()]
        state, why = row_outcome(row, cells, now)
        lines.append(f"| {row.name} | {'; '.join(said) or 'not run'} | {state}: {why} |")
    return "\n".join(lines) + "\n"


def _said(row: Row, gate: str, seen: Seen, now: GateHashes) -> str:
    why = f" ({', '.join(seen.reasons)})" if seen.reasons else ""
    text = f"{gate} {seen.verdict}{why}{' [busy]' if seen.busy else ''}{_age(gate, seen, now)}"
    return f"**{text}**" if grade(row, gate, seen) in (Grade.CAUGHT, Grade.HELD) else text


def _age(gate: str, seen: Seen, now: GateHashes) -> str:
    if not seen.stale(gate, now):
        return ""
    return f" [stale, commit {seen.commit}]" if seen.commit else " [stale]"
