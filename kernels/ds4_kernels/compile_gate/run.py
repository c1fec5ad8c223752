"""``ds4-kernels compile``: list, compile what is not yet known, judge, show."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ds4_kernels import __version__
from ds4_kernels.compile_gate import discover, report
from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.compile_gate.discover import Task
from ds4_kernels.compile_gate.pool import compile_all
from ds4_kernels.compile_gate.results import ResultCache, default_folder, fingerprint
from ds4_kernels.compile_gate.rules import judge
from ds4_kernels.ops import TABLE
from ds4_kernels.triton.compile_case import CompileCase

_DEFAULT_ARCHS = ("sm_120", "sm_121")
_SECONDS_PER_DAY = 86_400
_PROGRESS_SECONDS = 10.0


def main(args: argparse.Namespace) -> int:
    """Run the gate with the options of ``cli``. Returns 0 (passed), 1 (a violation or an error), 2 (bad input)."""
    if interpreted():
        return _refuse("TRITON_INTERPRET is set: the interpreter compiles nothing. Unset it for `ds4-kernels compile`.")
    path = Path(args.json) if args.json else None
    if path is not None and not path.absolute().parent.is_dir():
        return _refuse(f"--json: there is no folder {path.absolute().parent}")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return _refuse(f"the compile gate needs Triton: {error}")
    cases = discover.shipped_cases()
    try:
        cases = discover.select_ops(cases, _ops_of(args.op or (), cases))
    except ValueError as error:
        return _refuse(str(error))
    cache = ResultCache(None if args.no_cache else default_folder())
    archs = tuple(dict.fromkeys(args.arch or _DEFAULT_ARCHS))
    seed = _seed(args) if args.subset else None
    result = run_gate(cases, archs, cache=cache, jobs=args.jobs, limit_s=args.timeout, seed=seed)
    if not result.rows:
        return _refuse(f"no configuration ships for {', '.join(archs)}")
    _say(report.table(result.rows))
    failures = report.details(result.rows)
    _say(f"\n{failures}\n" if failures else "")
    _say(report.summary(result))
    if path is not None:
        report.write(result, path)
    return 1 if result.failed else 0


def interpreted() -> bool:
    """Whether Triton is told to interpret kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def run_gate(
    cases: Sequence[CompileCase],
    archs: Sequence[str],
    *,
    cache: ResultCache,
    jobs: int,
    limit_s: float,
    seed: int | None,
) -> report.Report:
    """Compile and judge ``cases`` (with a ``seed``: the subset it picks) for ``archs``."""
    import triton

    start = time.monotonic()
    chosen = cases if seed is None else discover.subset(cases, seed)
    tasks = discover.tasks_for(chosen, archs)
    measured, known = _measure_all(tasks, cache, jobs, limit_s)
    rows = [
        report.Row(task.case, task.arch, result, judge(task.case, task.arch, result, triton.__version__), cached)
        for task, result, cached in zip(tasks, measured, known, strict=True)
    ]
    return report.Report(triton.__version__, __version__, tuple(archs), seed, time.monotonic() - start, rows)


def _ops_of(names: Sequence[str], cases: Sequence[CompileCase]) -> list[str]:
    """The names with every group of the op table ("attn", "moe", ...) replaced by its ops that have configurations."""
    known = {case.op for case in cases}
    groups: dict[str, list[str]] = {}
    for op in TABLE.values():
        if op.name in known:
            groups.setdefault(op.group, []).append(op.name)
    return [op for name in names for op in ([name] if name in known else groups.get(name, [name]))]


def _measure_all(
    tasks: Sequence[Task], cache: ResultCache, jobs: int, limit_s: float
) -> tuple[list[Measurement], list[bool]]:
    """Measurements in the order of ``tasks``, and which of them were known before."""
    keys = [fingerprint(task) for task in tasks]
    found = [cache.get(key) for key in keys]
    known = [entry is not None for entry in found]
    missing = [index for index, entry in enumerate(found) if entry is None]
    progress = _Progress(len(missing))
    for position, measured in compile_all([tasks[index] for index in missing], jobs, limit_s):
        index = missing[position]
        found[index] = measured
        cache.put(keys[index], measured)
        progress.step(tasks[index])
    progress.end()
    return [entry for entry in found if entry is not None], known


class _Progress:
    """A line that is rewritten on a terminal, and one line every ten seconds elsewhere (CI logs)."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._terminal = sys.stderr.isatty()
        self._shown = time.monotonic()

    def step(self, task: Task) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        text = f"compiled {self._done} of {self._total}: {task.case.op} {task.case.config} {task.arch}"
        if self._terminal:
            sys.stderr.write(f"\r\033[K{text[:120]}")
        elif now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the terminal's line empty."""
        if self._terminal and self._done:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _seed(args: argparse.Namespace) -> int:
    """The day number, so that a daily run sees every configuration in turn."""
    return int(args.seed) if args.seed is not None else int(time.time() // _SECONDS_PER_DAY)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _refuse(reason: str) -> int:
    sys.stderr.write(f"ds4-kernels compile: {reason}\n")
    return 2
