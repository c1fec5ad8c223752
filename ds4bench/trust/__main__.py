"""``python -m ds4bench.trust``: the experiments behind the verdicts.

``keep RUN...`` stores timings of real runs, ``simulate`` makes the tables of unchanged builds, power and sequential stopping
from them, ``matrix`` measures broken serves, ``table`` prints what is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ds4bench.errors import Ds4BenchError, SpecError
from ds4bench.paths import project_root

if TYPE_CHECKING:
    from ds4bench.trust import expectations

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 when an experiment shows a defect, 2 for bad input."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except Ds4BenchError as error:
        sys.stderr.write(f"trust: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ds4bench.trust", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    keep = commands.add_parser("keep", help="store the timings of complete runs of one gate, to simulate from")
    keep.add_argument("runs", nargs="+", metavar="RUN", help="run ids or folders of one measurement, a session each")
    keep.set_defaults(run=_keep)

    simulate = commands.add_parser("simulate", help="aa, power and sequential tables from the stored timings")
    simulate.add_argument(
        "--promotions", type=int, default=1000, help="simulated promotions of each row (default 1000)"
    )
    simulate.add_argument("--seed", type=int, default=0)
    simulate.set_defaults(run=_simulate)

    matrix = commands.add_parser("matrix", help="broken serves x gates; goes on where it was stopped")
    matrix.add_argument("--suite", default="smoke", help="whose gates and overrides (default smoke)")
    matrix.add_argument("--quick", action="store_true", help="only the gates that a row names, not the whole suite")
    matrix.add_argument(
        "--until-caught", action="store_true", help="leave the rest of a row out once a gate has caught it"
    )
    matrix.add_argument("--retry-open", action="store_true", help="measure again what stayed INCONCLUSIVE")
    matrix.add_argument("--row", action="append", metavar="NAME", help="only these rows; may be repeated")
    matrix.add_argument(
        "--busy", action="store_true",
        help="other work shares this machine: do not ask for quiet, and count no verdict that rests on times",
    )  # fmt: skip
    matrix.set_defaults(run=_matrix)

    table = commands.add_parser("table", help="print the detection matrix as it is stored")
    table.set_defaults(run=_table)
    for command in (keep, simulate, matrix, table):
        command.add_argument("--results", type=Path, metavar="DIR", help="default: results/trust")
    return parser


def _results(options: argparse.Namespace) -> Path:
    return options.results or project_root() / "results" / "trust"


def _keep(options: argparse.Namespace) -> int:
    from ds4bench.store.runs import load_run
    from ds4bench.trust import timings

    kept = timings.of_runs([load_run(run) for run in options.runs])
    path = timings.write(kept, _results(options) / "timings")
    sys.stdout.write(f"{path}: {len(kept.values)} repeats of {len(kept.runs)} runs\n")
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from ds4bench.trust import simulation, tables, timings

    folder = _results(options)
    stored = [timings.read(path) for path in sorted((folder / "timings").glob("*.json"))]
    if not stored:
        raise SpecError(f"no timings in {folder / 'timings'}: store some with `python -m ds4bench.trust keep RUN...`")
    count, seed = options.promotions, options.seed
    begun = time.monotonic()
    aa = simulation.aa_table(stored, promotions=count, seed=seed)
    power = simulation.power_table(stored, promotions=count, seed=seed)
    power += simulation.accuracy_table(promotions=count, seed=seed)
    sequential = simulation.sequential_table(promotions=count, seed=seed)
    for name, rows in (("aa", aa), ("power", power), ("sequential", sequential)):
        tables.write(folder / f"{name}.json", rows, promotions=count, seed=seed)
    text = tables.simulation_tables(aa, power, sequential)
    (folder / "simulation.md").write_text(text)
    sys.stdout.write(text)
    broken = tables.broken_promises(aa, power)
    for line in broken:
        sys.stdout.write(f"PROMISE BROKEN: {line}\n")
    sys.stderr.write(f"{time.monotonic() - begun:.0f} s\n")
    return 1 if broken else 0


def _matrix(options: argparse.Namespace) -> int:
    from ds4bench.run_session import RunInterruptedError
    from ds4bench.spec.suite import load_suite
    from ds4bench.trust import expectations, grading
    from ds4bench.trust.matrix import MatrixRun

    rows = _rows(expectations.load(), options.row)
    suite = load_suite(options.suite)
    path = _results(options) / "faults.json"
    gates = [entry.gate for entry in suite.gates]
    run = MatrixRun(
        rows, [] if options.quick else gates, suite, path, busy=options.busy, until_caught=options.until_caught
    )
    if options.retry_open:
        run.forget_open()
    try:
        asyncio.run(run.run())
    except RunInterruptedError:
        sys.stderr.write("interrupted; what was measured is kept, the same command goes on\n")
        return INTERRUPTED
    _write_table(path)
    states = [grading.row_state(row, run.matrix.cells.get(row.name, {})) for row in rows]
    return 1 if any(state == "defect" for state, _ in states) else 0


def _rows(rows: list[expectations.Row], wanted: Sequence[str] | None) -> list[expectations.Row]:
    unknown = sorted(set(wanted or ()) - {row.name for row in rows})
    if unknown:
        raise SpecError(f"--row {unknown[0]}: there is no such row; the rows are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not wanted or row.name in wanted]


def _table(options: argparse.Namespace) -> int:
    sys.stdout.write(_write_table(_results(options) / "faults.json"))
    return 0


def _write_table(path: Path) -> str:
    from ds4bench.trust import expectations, grading

    text = grading.matrix_table(expectations.load(), grading.load(path))
    path.with_suffix(".md").write_text(text)
    return text


if __name__ == "__main__":
    sys.exit(main())
