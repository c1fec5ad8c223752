"""``python -m ds4bench.trust``: the experiments behind the verdicts.

``keep RUN...`` stores timings of real runs, ``simulate`` makes the tables of unchanged builds, power and sequential stopping
from them, ``matrix`` measures broken serves, ``aa-runs`` and ``ci-runs`` promote and check known builds, ``lanes`` runs one
of these three on all cores at once, ``merge`` puts shares together, ``table`` prints what is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ds4bench.errors import Ds4BenchError, SpecError
from ds4bench.paths import project_root
from ds4bench.trust.shards import WHOLE, Shard

if TYPE_CHECKING:
    from ds4bench.trust import expectations
    from ds4bench.trust.grading import GateHashes
    from ds4bench.trust.real_runs import Kind

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 when an experiment shows a defect, 2 for bad input."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was finished is kept, the same command goes on\n")
        return INTERRUPTED
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
    _matrix_options(matrix)
    aa_runs = commands.add_parser("aa-runs", help="promotions of an unchanged build; no FAIL is the claim")
    aa_runs.set_defaults(run=_aa_runs)
    ci_runs = commands.add_parser(
        "ci-runs", help="ds4bench ci in a scratch clone, the second commit unchanged or slower"
    )
    ci_runs.add_argument("--slow", metavar="20%", help="the second commit's prefill takes this much longer")
    ci_runs.set_defaults(run=_ci_runs)
    for command, count in ((aa_runs, 20), (ci_runs, 10)):
        command.add_argument("--count", type=int, default=count, help=f"runs in all shares together (default {count})")
    for command in (matrix, aa_runs, ci_runs):
        command.add_argument("--shard", metavar="I/N", help="only this share; each with --results of its own")

    lanes = commands.add_parser("lanes", help="matrix, aa-runs or ci-runs in lanes of a few cores each, then merge")
    lanes.add_argument("--cores", type=int, default=2, help="CPUs of a lane (default 2)")
    lanes.add_argument("--most", type=int, metavar="N", help="at most so many lanes")
    lanes.set_defaults(run=_lanes)

    merge = commands.add_parser("merge", help="put the results of shares together")
    merge.add_argument("parts", nargs="+", type=Path, metavar="DIR", help="what was --results; later ones win")
    merge.set_defaults(run=_merge)

    table = commands.add_parser("table", help="print what is stored of the detection matrix and of real runs")
    table.set_defaults(run=_table)
    for command in (matrix, aa_runs, ci_runs, merge, table):
        suite = "commit" if command is ci_runs else "smoke"
        command.add_argument("--suite", default=suite, help=f"whose gates and overrides (default {suite})")
    for command in (keep, simulate, matrix, aa_runs, ci_runs, lanes, merge, table):
        command.add_argument("--results", "--out", type=Path, metavar="DIR", help="default: results/trust")
    lanes.add_argument("experiment", nargs=argparse.REMAINDER, metavar="COMMAND", help="e.g. matrix --quick")
    return parser


def _matrix_options(matrix: argparse.ArgumentParser) -> None:
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


def _results(options: argparse.Namespace) -> Path:
    return options.results or project_root() / "results" / "trust"


def _keep(options: argparse.Namespace) -> int:
    from ds4bench.store.runs import load_run
    from ds4bench.trust import timings

    kept = timings.of_runs([load_run(run) for run in options.runs])
    for one, path in zip(kept, timings.write(kept, _results(options) / "timings"), strict=True):
        sys.stdout.write(f"{path}: {len(one.values)} repeats of {len(one.runs)} runs, rule {one.rule}\n")
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
    sys.stderr.write(f"{time.monotonic() - begun:.0f} s\n")
    return _broken(tables.broken_promises(aa, power))


def _matrix(options: argparse.Namespace) -> int:
    from ds4bench.run_session import RunInterruptedError
    from ds4bench.spec.suite import load_suite
    from ds4bench.trust import expectations, merging
    from ds4bench.trust.matrix import MatrixRun, gates_of

    suite = load_suite(options.suite)
    every = [entry.gate for entry in suite.gates]
    gates = [] if options.quick else every
    table = expectations.table()
    rows = _rows(table.rows, options.row)
    rows = _shard(options).of_rows(rows, lambda row: gates_of(row, gates, every))
    path = _results(options) / merging.FAULTS
    run = MatrixRun(
        rows, gates, suite, path, busy=options.busy, until_caught=options.until_caught, repeats=table.repeats
    )  # fmt: skip
    if options.retry_open:
        run.forget_open()
    try:
        asyncio.run(run.run())
    except RunInterruptedError:
        sys.stderr.write("interrupted; what was measured is kept, the same command goes on\n")
        return INTERRUPTED
    merging.write_faults_table(path, table.rows, run.gates_now.hash_of)
    return 1 if any(run.outcome(row)[0] == "defect" for row in rows) else 0


def _rows(rows: list[expectations.Row], wanted: Sequence[str] | None) -> list[expectations.Row]:
    unknown = sorted(set(wanted or ()) - {row.name for row in rows})
    if unknown:
        raise SpecError(f"--row {unknown[0]}: there is no such row; the rows are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not wanted or row.name in wanted]


def _shard(options: argparse.Namespace) -> Shard:
    return Shard.parse(options.shard) if options.shard else WHOLE


def _aa_runs(options: argparse.Namespace) -> int:
    return _series(options, "aa", 0.0)


def _ci_runs(options: argparse.Namespace) -> int:
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", options.slow or "0%")
    if percent is None:
        raise SpecError(f"--slow {options.slow}: write it like 20%")
    return _series(options, "ci", float(percent[1]) / 100)


def _series(options: argparse.Namespace, kind: Kind, slower: float) -> int:
    from ds4bench.trust import merging, real_runs, real_tables

    path = _results(options) / merging.runs_file(kind)
    change = f"prefill {slower:.0%} slower" if slower else real_runs.UNCHANGED
    count = _shard(options).of_count(options.count)
    series = real_runs.Series(kind, count, path, change=change, slower=slower, suite=options.suite)
    runs = series.run()
    merging.write_runs_table(path, kind)
    return _broken(real_tables.broken_promises(runs))


def _broken(lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(f"PROMISE BROKEN: {line}\n")
    return 1 if lines else 0


def _lanes(options: argparse.Namespace) -> int:
    from ds4bench.paths import state_dir
    from ds4bench.trust import expectations, lanes, merging, real_runs

    arguments = options.experiment[1:] if options.experiment[:1] == ["--"] else options.experiment
    if not arguments or arguments[0] not in ("matrix", "aa-runs", "ci-runs"):
        raise SpecError("lanes runs matrix, aa-runs or ci-runs, e.g. `lanes matrix --quick`")
    given = _parser().parse_args(arguments)  # its mistakes are ours to say, once
    folder = state_dir() / "trust" / "lanes" / real_runs.this_commit() / arguments[0]
    chosen = lanes.make_lanes(folder, cores=options.cores, most=options.most)
    try:
        codes = asyncio.run(lanes.run_lanes(chosen, arguments))
    except asyncio.CancelledError:
        sys.stderr.write("interrupted; what was measured is kept, the same command goes on\n")
        return INTERRUPTED
    results = _results(options)
    parts = [part for part in (results, *(lane.results for lane in chosen)) if part.is_dir()]
    for path in merging.merge(parts, results, expectations.load(), _gates_now(given.suite)):
        sys.stdout.write(f"{path}\n")
    return max(codes, key=abs)


def _merge(options: argparse.Namespace) -> int:
    from ds4bench.trust import expectations, merging

    for path in merging.merge(options.parts, _results(options), expectations.load(), _gates_now(options.suite)):
        sys.stdout.write(f"{path}\n")
    return 0


def _gates_now(suite: str) -> GateHashes:
    """The gates of the matrix as they are now."""
    from ds4bench.spec.suite import load_suite
    from ds4bench.trust import expectations
    from ds4bench.trust.matrix_gates import MatrixGates

    return MatrixGates(load_suite(suite), expectations.table().repeats).hash_of


def _table(options: argparse.Namespace) -> int:
    from ds4bench.trust import expectations, merging

    results = _results(options)
    now = _gates_now(options.suite)
    sys.stdout.write(merging.write_faults_table(results / merging.FAULTS, expectations.load(), now))
    for kind in merging.KINDS:
        path = results / merging.runs_file(kind)
        if path.exists():
            sys.stdout.write("\n" + merging.write_runs_table(path, kind))
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: what was started is ended too
    sys.exit(main())
