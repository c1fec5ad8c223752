"""What a person sees while two serves are asked in turns: the cells of both in one display, each with its side's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ds4bench.core import BatchRow, Cell, Phase, RequestResult
from ds4bench.report.progress import SilentProgress

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress


class SideProgress(SilentProgress):
    """Told by the runner of one side, block by block; tells ``shown``, which knows the whole plan of both."""

    def __init__(self, shown: Progress, name: str) -> None:
        self._shown, self._name = shown, name
        self._phases: set[str] = set()

    def cells(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells as they are called in the display of both sides."""
        return [self._cell(cell) for cell in cells]

    def phase(self, text: str) -> None:
        """See ``Progress``. Each once: every block has the same ones."""
        if text not in self._phases:
            self._phases.add(text)
            self._shown.phase(f"{self._name}: {text}")

    def note(self, text: str) -> None:
        """See ``Progress``."""
        self._shown.note(f"{self._name}: {text}")

    def batch_started(self, cell: Cell, repeat: int, phase: Phase, requests: int) -> None:
        """See ``Progress``."""
        self._shown.batch_started(self._cell(cell), repeat, phase, requests)

    def first_token(self, cell: Cell, index: int, ttft_s: float) -> None:
        """See ``Progress``."""
        self._shown.first_token(self._cell(cell), index, ttft_s)

    def request_done(self, cell: Cell, index: int, result: RequestResult) -> None:
        """See ``Progress``."""
        self._shown.request_done(self._cell(cell), index, result)

    def batch_done(self, row: BatchRow) -> None:
        """See ``Progress``."""
        self._shown.batch_done(msgspec.structs.replace(row, cell=self._called(row.cell)))

    def _cell(self, cell: Cell) -> Cell:
        return msgspec.structs.replace(cell, id=self._called(cell.id))

    def _called(self, cell: str) -> str:
        return f"{self._name} {cell}"
