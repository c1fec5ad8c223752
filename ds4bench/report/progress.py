"""What a person sees while a gate runs: a live table on a terminal, a line a batch elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ds4bench.core import BatchRow, Cell, Phase, RequestResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_REFRESH_HZ = 2
"""Rendering takes CPU time from the measurement: seldom is enough."""


class Progress(Protocol):
    """Told what happens. Calls come from the measuring loop and must be cheap."""

    def start(self, cells: Sequence[Cell], repeats: int) -> None: ...
    def phase(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def batch_started(self, cell: Cell, repeat: int, phase: Phase, requests: int) -> None: ...
    def first_token(self, cell: Cell, index: int, ttft_s: float) -> None: ...
    def request_done(self, cell: Cell, index: int, result: RequestResult) -> None: ...
    def batch_done(self, row: BatchRow) -> None: ...
    def finish(self) -> None: ...


def make_progress(*, quiet: bool) -> Progress:
    """The progress display for this stderr."""
    if quiet:
        return SilentProgress()
    from ds4bench.report.console import stderr

    console = stderr()
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


class Estimate:
    """Time left: work is prompt tokens x requests, its speed that of the batches so far."""

    def __init__(self) -> None:
        self._left = 0.0
        self._done = 0.0
        self._spent_s = 0.0
        self._work: dict[str, float] = {}

    def plan(self, cells: Sequence[Cell], repeats: int) -> None:
        """What there is to do."""
        self._work = {cell.id: _work(cell) for cell in cells}
        self._left = repeats * sum(self._work.values())
        self._done = self._spent_s = 0.0

    def account(self, row: BatchRow) -> None:
        """A batch is done; a warm-up counts for the speed only."""
        work = self._work.get(row.cell, 0.0)
        if row.phase == "warmup":
            return
        self._left -= work
        self._done += work
        self._spent_s += row.wall_s

    def seconds_left(self) -> float | None:
        """None before there is anything to judge by."""
        return self._left * self._spent_s / self._done if self._done else None


class SilentProgress:
    """Says nothing."""

    def start(self, cells: Sequence[Cell], repeats: int) -> None:
        """See ``Progress``."""

    def phase(self, text: str) -> None:
        """See ``Progress``."""

    def note(self, text: str) -> None:
        """See ``Progress``."""

    def batch_started(self, cell: Cell, repeat: int, phase: Phase, requests: int) -> None:
        """See ``Progress``."""

    def first_token(self, cell: Cell, index: int, ttft_s: float) -> None:
        """See ``Progress``."""

    def request_done(self, cell: Cell, index: int, result: RequestResult) -> None:
        """See ``Progress``."""

    def batch_done(self, row: BatchRow) -> None:
        """See ``Progress``."""

    def finish(self) -> None:
        """See ``Progress``."""


class PlainProgress(SilentProgress):
    """One line an event, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._estimate = Estimate()
        self._ttft: list[float] = []
        self._failures: list[str] = []

    def start(self, cells: Sequence[Cell], repeats: int) -> None:
        """See ``Progress``."""
        self._estimate.plan(cells, repeats)
        self.note(f"{len(cells)} cells x {repeats} repeats")

    def phase(self, text: str) -> None:
        """See ``Progress``."""
        self.note(text)

    def note(self, text: str) -> None:
        """See ``Progress``."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, soft_wrap=True)

    def batch_started(self, cell: Cell, repeat: int, phase: Phase, requests: int) -> None:
        """See ``Progress``."""
        self._ttft, self._failures = [], []

    def request_done(self, cell: Cell, index: int, result: RequestResult) -> None:
        """See ``Progress``."""
        if not result.ok:
            self._failures.append(f"{result.error}: {result.error_detail}")
        elif result.ttft_s is not None:  # a reply that was not streamed has none
            self._ttft.append(result.ttft_s)

    def batch_done(self, row: BatchRow) -> None:
        """See ``Progress``."""
        self._estimate.account(row)
        ttft = f"TTFT {max(self._ttft):.2f} s" if self._ttft else "no TTFT"
        left = self._estimate.seconds_left()
        what = "warm-up" if row.phase == "warmup" else f"repeat {row.repeat + 1}"
        parts = [f"{row.cell} {what}: {ttft}", *self._failures]
        if left is not None:
            parts.append(f"{_duration(left)} left")
        self.note(", ".join(parts))


class LiveProgress:
    """A table of the cells that updates in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._estimate = Estimate()
        self._cells: Sequence[Cell] = ()
        self._repeats = 0
        self._repeats_done: dict[str, int] = {}
        self._last_ttft: dict[str, float] = {}
        self._status: dict[str, str] = {}
        self._text = ""
        self._requests = self._finished = 0
        self._shown = False
        self._live = Live(console=console, refresh_per_second=_REFRESH_HZ, transient=True, get_renderable=self._render)

    def start(self, cells: Sequence[Cell], repeats: int) -> None:
        """See ``Progress``."""
        self._cells, self._repeats = cells, repeats
        self._repeats_done, self._last_ttft, self._status = {}, {}, {}
        self._estimate.plan(cells, repeats)
        self._show()

    def phase(self, text: str) -> None:
        """See ``Progress``."""
        self._text = text
        self._show()

    def note(self, text: str) -> None:
        """See ``Progress``."""
        self._console.print(text, markup=False, soft_wrap=True)

    def batch_started(self, cell: Cell, repeat: int, phase: Phase, requests: int) -> None:
        """See ``Progress``."""
        self._text = ""
        self._status[cell.id] = f"{'warm-up' if phase == 'warmup' else 'running'}: 0 of {requests} done"
        self._requests, self._finished = requests, 0

    def first_token(self, cell: Cell, index: int, ttft_s: float) -> None:
        """See ``Progress``."""
        self._last_ttft[cell.id] = ttft_s

    def request_done(self, cell: Cell, index: int, result: RequestResult) -> None:
        """See ``Progress``."""
        self._finished += 1
        kind = self._status[cell.id].partition(":")[0]
        self._status[cell.id] = f"{kind}: {self._finished} of {max(self._requests, self._finished)} done"
        if not result.ok:
            self.note(f"{cell.id}: request {index} failed: {result.error}: {result.error_detail}")

    def batch_done(self, row: BatchRow) -> None:
        """See ``Progress``."""
        self._estimate.account(row)
        self._status.pop(row.cell, None)
        if row.phase == "measure":
            self._repeats_done[row.cell] = self._repeats_done.get(row.cell, 0) + 1

    def finish(self) -> None:
        """See ``Progress``."""
        if self._shown:
            self._live.stop()
            self._shown = False

    def _show(self) -> None:
        if not self._shown:
            self._live.start()
            self._shown = True

    def _render(self) -> Table:
        from rich.table import Table

        left = self._estimate.seconds_left()
        title = self._text or (f"about {_duration(left)} left" if left is not None else "measuring")
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("cell", "repeats", "last TTFT", ""):
            table.add_column(name, justify="right" if name in ("repeats", "last TTFT") else "left")
        for cell in self._cells:
            ttft = self._last_ttft.get(cell.id)
            table.add_row(
                cell.id,
                f"{self._repeats_done.get(cell.id, 0)} of {self._repeats}",
                "" if ttft is None else f"{ttft:.2f} s",
                self._status.get(cell.id, ""),
            )
        return table


def _work(cell: Cell) -> float:
    tokens = cell.params.get("prompt_tokens")
    return 1.0 if tokens is None else float(tokens) * cell.concurrency


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02d} s"
