"""``ds4bench promote``: a suite of gates to one promotion verdict."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds4bench import keys
from ds4bench.commands.gate import INTERRUPTED
from ds4bench.errors import SpecError, WorkloadError
from ds4bench.run_session import RunInterruptedError, TargetOptions
from ds4bench.spec.suite import SuiteSpec, load_suite
from ds4bench.store import ids, suite_runs
from ds4bench.store.suite_runs import SuiteGate
from ds4bench.suite_runner import Job, SuiteRunner, lines_of, make_jobs, reopen
from ds4bench.targets.choice import Serving
from ds4bench.targets.pacing import Account
from ds4bench.verdicts.exit_codes import EXIT
from ds4bench.verdicts.promotion import Promotion, promotion

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Reports:
    """The forms in which an outcome was asked for."""

    json: bool = False
    quiet: bool = False
    junit: str | None = None
    summary: str | None = None

    def check(self) -> None:
        """Raises SpecError for a file that cannot be written: better now than after hours of measuring."""
        for option, path in (("--junit", self.junit), ("--summary", self.summary)):
            if path is not None:
                new = not os.path.lexists(path)
                try:
                    with Path(path).open("a", encoding="utf-8"):
                        pass
                    if new:  # an empty report is none
                        Path(path).unlink()
                except OSError as error:
                    raise SpecError(f"{option} {path}: cannot be written: {error.strerror or error}") from None


@dataclass(frozen=True)
class PromoteOptions:
    """The options of ``ds4bench promote``, as given. ``data`` are ``GATE=PATH``."""

    suite: str | None
    target: TargetOptions
    baseline: str
    data: tuple[str, ...]
    resume: str | None
    reports: Reports


def run_promote(options: PromoteOptions) -> int:
    """Run the suite and print its report; returns the exit code. Raises Ds4BenchError for bad options or targets."""
    from ds4bench.report.progress import make_progress

    options.reports.check()
    state, target = _state(options)
    target.check()
    suite = load_suite(state.suite)
    jobs = jobs_of(suite, state.suite, _paths(state.asked.get("data")), state.gates)
    state.gates = [job.record for job in jobs]
    _keep_account(state, target.serving.account)
    progress = make_progress(quiet=options.reports.quiet or options.reports.json)
    try:
        asyncio.run(SuiteRunner(jobs, target, state.baseline, state, progress).run())
    except RunInterruptedError:
        progress.note(f"interrupted; everything finished is kept: ds4bench promote --resume {state.run_id}")
        return INTERRUPTED
    if state.died is not None:
        progress.note(f"{state.died}; what is left goes on with: ds4bench promote --resume {state.run_id}")
    outcome = promotion(lines_of(jobs, state.died))
    report(outcome, {"suite": suite.name, "suite_run": state.run_id}, suite.name, options.reports)
    return EXIT[outcome.verdict]


def report(outcome: Promotion, head: Mapping[str, Any], suite: str, reports: Reports) -> None:
    """The outcome in every form that was asked for; first on the terminal, where nothing can hinder it."""
    from ds4bench.report.junit import write_junit
    from ds4bench.report.promotion import report_promotion
    from ds4bench.report.summary import append_summary

    report_promotion(outcome, head, as_json=reports.json, quiet=reports.quiet)
    if reports.junit:
        write_junit(reports.junit, outcome, suite)
    if reports.summary:
        append_summary(reports.summary, outcome, head)


def jobs_of(
    suite: SuiteSpec, origin: str, data: Mapping[str, str], records: Sequence[SuiteGate] = ()
) -> list[Job]:  # fmt: skip
    """The suite's gates, ready to run. Raises SpecError or WorkloadError that names the suite where ``origin``'s file, and no
    option, is to blame."""
    try:
        return make_jobs(suite, data, records)
    except (SpecError, WorkloadError) as error:
        if str(error).startswith("--data"):
            raise
        raise type(error)(f"suite {origin}: {error}") from None


def data_paths(pairs: Sequence[str]) -> dict[str, str]:
    """``GATE=PATH`` by gate. Raises SpecError."""
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise SpecError(f"--data {wrong[0]}: in a suite it needs the form GATE=PATH, e.g. mt-bench=question.jsonl")
    return {gate: path for gate, _, path in (pair.partition("=") for pair in pairs)}


def _state(options: PromoteOptions) -> tuple[suite_runs.SuiteRun, TargetOptions]:
    """The suite run to begin or to go on with, and who answers."""
    if options.resume is not None:
        return _resumed(options, options.resume)
    target, suite = options.target, options.suite or "promotion"
    asked: dict[str, object] = {
        "target": target.name,
        "url": target.url,
        "model": target.model,
        "serve_args": keys.masked(target.serve_args),
        "engine_python": target.serving.engine_python,
        "serve_profile": target.serving.profile,
        "port": target.serving.port,
        "kernels": target.serving.kernels,
        **_limits(target.serving),
        "data": data_paths(options.data),
    }
    name = load_suite(suite).name
    state = suite_runs.SuiteRun(
        schema=suite_runs.SCHEMA, run_id=ids.new_id(name), suite=suite, baseline=options.baseline,
        asked=asked, gates=[],
    )  # fmt: skip
    return state, target


def _resumed(options: PromoteOptions, run_id: str) -> tuple[suite_runs.SuiteRun, TargetOptions]:
    """A suite run as it was asked for; limits that are given now replace its own, what it has spent stays spent."""
    state = suite_runs.load(run_id)
    if options.suite is not None and options.suite != state.suite:
        raise SpecError(f"suite run {run_id} is of suite {state.suite}, not {options.suite}")
    _refuse_other(options, state)
    reopen(state)
    given = _limits(options.target.serving)
    state.asked |= {name: value for name, value in given.items() if value is not None}
    stored: Any = state.asked
    spent = state.spending or suite_runs.Spending()
    serving = Serving(
        stored["engine_python"], stored["serve_profile"], stored["port"], kernels=stored.get("kernels"),
        **{name: stored.get(name) for name in given},
        account=Account(spent.requests, spent.refused, spent.spent),
    )  # fmt: skip
    flags = _with_keys(run_id, tuple(_flags(stored)), options.target.serve_args)
    return state, TargetOptions(stored["target"], stored["url"], stored["model"], flags, serving)


def _refuse_other(options: PromoteOptions, state: suite_runs.SuiteRun) -> None:
    """Raises SpecError for an option that contradicts what the suite run was begun with: it would change nothing."""
    target, serving, stored = options.target, options.target.serving, state.asked
    hidden = any(keys.HIDDEN in str(flag) for flag in _flags(stored))  # those must be given again: ``_with_keys``
    given: dict[str, tuple[object, object]] = {
        "--target": (target.name if target.name != "embedded" else None, stored["target"]),
        "--baseline": (options.baseline if options.baseline != "here" else None, state.baseline),
        "--url": (target.url, stored["url"]),
        "--model": (target.model, stored["model"]),
        "--serve-arg": (None if hidden else keys.masked(target.serve_args) or None, stored["serve_args"]),
        "--engine-python": (serving.engine_python, stored["engine_python"]),
        "--serve-profile": (serving.profile, stored["serve_profile"]),
        "--port": (serving.port, stored["port"]),
        "--kernels": (serving.kernels, stored.get("kernels")),
        "--data": (data_paths(options.data) or None, _paths(stored.get("data"))),
    }
    for option, (now, then) in given.items():
        if now is not None and now != then:
            raise SpecError(
                f"--resume goes on with the suite run's own {option}: {then if then else 'none'}; leave out {option}, or "
                "begin a new suite run"
            )


def _limits(serving: Serving) -> dict[str, Any]:
    return {"max_requests": serving.max_requests, "max_cost": serving.max_cost, "prices": serving.prices}


def _keep_account(state: suite_runs.SuiteRun, account: Account) -> None:
    """Every request that costs is on disk before it is sent, with the most that it can cost: a kill loses none."""

    def keep() -> None:
        most = account.spent + account.reserved
        state.spending = suite_runs.Spending(requests=account.requests, refused=account.refused, spent=most)
        suite_runs.save(state)

    account.on_change = keep


def _with_keys(suite_run: str, stored: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    """The stored flags; where a key is hidden in them, the same flags as given anew. Raises SpecError without those."""
    if not any(keys.HIDDEN in flag for flag in stored):
        return stored
    if tuple(keys.masked(given)) != stored:
        raise SpecError(
            f"suite run {suite_run} was begun with a key, which is not stored: give its --serve-arg options again, every one"
        )
    return given


def _flags(stored: Mapping[str, object]) -> list[str]:
    flags = stored["serve_args"]
    return [str(flag) for flag in flags] if isinstance(flags, list) else []


def _paths(stored: object) -> dict[str, str]:
    return {str(gate): str(path) for gate, path in stored.items()} if isinstance(stored, dict) else {}
