"""``ds4bench ci``: this working tree against another revision of it, interleaved."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ds4bench.commands.gate import INTERRUPTED
from ds4bench.commands.promote import Reports, data_paths, jobs_of, report
from ds4bench.core import Verdict
from ds4bench.errors import SpecError
from ds4bench.interleaved import InterleavedRunner, Side
from ds4bench.paired_gate import own_cores
from ds4bench.run_session import RunInterruptedError, TargetOptions
from ds4bench.spec.suite import SuiteEntry, SuiteSpec, load_suite
from ds4bench.store.ids import new_id
from ds4bench.suite_runner import make_jobs
from ds4bench.verdicts.exit_codes import EXIT
from ds4bench.verdicts.promotion import promotion
from ds4bench.worktree import Tree, checked_out, working_tree


@dataclass(frozen=True)
class CiOptions:
    """The options of ``ds4bench ci``, as given. ``gates`` instead of a suite are run in ``profile``."""

    base: str
    suite: str | None
    gates: tuple[str, ...]
    profile: str
    repeats: int | None
    overrides: tuple[str, ...]
    data: tuple[str, ...]
    serve_args: tuple[str, ...]
    serve_python: str | None
    inconclusive_ok: bool
    reports: Reports


def run_ci(options: CiOptions) -> int:
    """Compare and print the report; returns the exit code. Raises Ds4BenchError for bad options or a serve that does not
    start. The worktree of the base is removed in any case."""
    from ds4bench.report.progress import make_progress

    options.reports.check()
    suite = _suite(options)
    data = data_paths(options.data)
    jobs = make_jobs(suite, data) if options.gates else jobs_of(suite, options.suite or suite.name, data)
    head = working_tree(Path.cwd())
    progress = make_progress(quiet=options.reports.quiet or options.reports.json)
    run_id = new_id("ci")
    with checked_out(head.path, options.base) as base:
        progress.note(f"base {base.label} ({options.base}) against {head.label}, blocks in the order A B B A ...")
        runner = InterleavedRunner(
            jobs, _side(base, options, options.serve_python), _side(head, options, None), run_id, progress,
            at_once=bool(own_cores(options.serve_args)),
        )  # fmt: skip
        try:
            lines = asyncio.run(runner.run())
        except RunInterruptedError:
            progress.note("interrupted; the two sides must run beside each other, so start it again")
            return INTERRUPTED
    outcome = promotion(lines)
    shown = {"suite": suite.name, "base": base.label, "head": head.label, "suite_run": run_id}
    report(outcome, shown, suite.name, options.reports)
    open_but_allowed = options.inconclusive_ok and outcome.verdict is Verdict.INCONCLUSIVE
    return EXIT[Verdict.PASS if open_but_allowed else outcome.verdict]


def _suite(options: CiOptions) -> SuiteSpec:
    """The suite by name, or one made of ``--gate`` with their profile, repeats and overrides."""
    if options.gates and options.suite:
        raise SpecError("give --suite or --gate, not both")
    if options.gates:
        twice = sorted({gate for gate in options.gates if options.gates.count(gate) > 1})
        if twice or not all(options.gates):
            raise SpecError(f"--gate {twice[0] if twice else ''!r}: give each gate once, by name or path")
        entries = [
            SuiteEntry(gate=gate, repeats=options.repeats, overrides=list(options.overrides)) for gate in options.gates
        ]
        return SuiteSpec(name="ci", title="Chosen gates", profile=options.profile, gates=entries)
    if options.overrides or options.repeats:
        raise SpecError("--set and --repeats belong to --gate; a suite says so in its file")
    return load_suite(options.suite or "commit")


def _side(tree: Tree, options: CiOptions, python: str | None) -> Side:
    flags = (*own_cores(options.serve_args), *options.serve_args)
    return Side(TargetOptions("embedded", serve_args=flags, python=python, tree=tree.path), tree.label)
