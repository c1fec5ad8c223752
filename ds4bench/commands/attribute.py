"""``ds4bench attribute``: name the bundled kernel that makes an engine worse than with its own."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ds4bench.attribution.op_table import ALL, switchable
from ds4bench.attribution.plan import expected
from ds4bench.attribution.search import Effect, Group
from ds4bench.commands.gate import INTERRUPTED
from ds4bench.core import Verdict
from ds4bench.errors import SpecError, StoreError
from ds4bench.run_session import Prepared, RunInterruptedError, TargetOptions, prepare
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.store import attributions
from ds4bench.suite_runner import compares
from ds4bench.targets.choice import LAUNCHED, check_kernels
from ds4bench.targets.kernels import BUNDLED, ENGINE
from ds4bench.verdicts.exit_codes import EXIT
from ds4bench.verdicts.rules.comparison import judges_times

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress
    from ds4bench.store.attributions import AttributionRun


@dataclass(frozen=True)
class AttributeOptions:
    """The options of ``ds4bench attribute``, as given. ``ops``: ``all`` or a comma list of groups and ops."""

    gate: str
    target: TargetOptions
    ops: str
    better: bool
    profile: str | None
    overrides: tuple[str, ...]
    repeats: int | None
    data: str | None
    resume: str | None
    dry_run: bool
    json: bool
    quiet: bool

    @property
    def wanted(self) -> Effect:
        """What is looked for."""
        return Effect.BETTER if self.better else Effect.WORSE


def run_attribute(options: AttributeOptions) -> int:
    """Search, print the report; returns the exit code: 0 no difference, 1 an op is named as worse, 3 INVALID, 4 not
    decided. Raises Ds4BenchError for bad options and for a serve that does not start with its own kernels."""
    from ds4bench.report.progress import make_progress

    _check(options)
    prepared = prepare(_gate(options), options.data)
    if not compares(prepared.gate.spec):
        raise SpecError(f"gate {prepared.name} compares nothing with a baseline, so it cannot show a difference")
    state = _state(options, prepared)
    progress = make_progress(quiet=options.quiet or options.json)
    plan = plan_lines(options, prepared, [Group(row.name, tuple(row.ops)) for row in state.groups])
    if options.dry_run:
        sys.stdout.write("\n".join([*plan, *_commands(options)]) + "\n")
        return 0
    for line in plan:
        progress.note(line)
    attributions.save(state)
    return _measured(options, prepared, state, progress)


def plan_lines(options: AttributeOptions, prepared: Prepared, groups: list[Group]) -> list[str]:
    """What will be measured and what it costs."""
    timed = judges_times(prepared.gate.spec)
    count = sum(len(group.ops) for group in groups)
    names = ", ".join(f"{group.name} ({len(group.ops)})" for group in groups)
    closing = ", and the engine once more at the end, against a drift of the machine" if timed else ""
    return [
        f"gate {prepared.name}, profile {prepared.gate.profile}: first the engine on its own kernels, then with all ops on "
        f"the bundle; a difference is halved until ops are named, each step on a serve of its own{closing}",
        f"{count} ops in {len(groups)} groups: {names}; later only those that the engine really calls",
        expected(groups, closing=timed).text(),
    ]


def _measured(options: AttributeOptions, prepared: Prepared, state: AttributionRun, progress: Progress) -> int:
    from ds4bench.attribution.findings import conclude, ratio_text
    from ds4bench.attribution.runner import AttributionRunner, UnfitBaselineError
    from ds4bench.report.attribution import report_attribution

    runner = AttributionRunner(prepared, options.target, state, progress)
    rows = []
    try:
        outcome = conclude(state, asyncio.run(runner.run()))
        verdict, sentence = outcome.verdict, outcome.sentence
        rows = [(r.op, r.group, r.verdict, ratio_text(r.estimate), r.because) for r in outcome.rows]
    except RunInterruptedError:
        progress.note(
            f"interrupted; everything finished is kept: ds4bench attribute {options.gate} --resume {state.run_id}, with the "
            "same options as now"
        )
        return INTERRUPTED
    except UnfitBaselineError as error:
        invalid = error.verdict.verdict is Verdict.INVALID
        verdict = Verdict.INVALID if invalid else Verdict.INCONCLUSIVE
        sentence = f"with the engine's own kernels: {error.verdict.sentence}"
    report_attribution(state, verdict, sentence, rows, as_json=options.json, quiet=options.quiet)
    return EXIT[verdict]


def _check(options: AttributeOptions) -> None:
    options.target.check()
    if options.target.name not in (*LAUNCHED, "embedded"):
        raise SpecError(f"attribute starts the serve anew for every step: --target embedded, {' or '.join(LAUNCHED)}")
    if not options.dry_run:  # before the baseline has cost its minutes
        switchable(options.target.name, options.ops)  # its word on a name that is no op
        kernels = BUNDLED if options.ops == ALL else f"ops={options.ops}"
        check_kernels(options.target.name, replace(options.target.serving, kernels=kernels))


def _gate(options: AttributeOptions) -> EffectiveGate:
    return load_gate(options.gate, profile=options.profile, overrides=options.overrides, repeats=options.repeats)


def _state(options: AttributeOptions, prepared: Prepared) -> AttributionRun:
    """A new attribution, or the one that is resumed. Raises StoreError when that one was asked for something else."""
    from ds4bench.attribution.runner import new_state

    asked = {**options.target.described(), "ops": options.ops, "measurement": prepared.gate.measurement_hash}
    if options.resume is None:
        return new_state(prepared, options.wanted, asked, switchable(options.target.name, options.ops))
    state = attributions.load(options.resume)
    changed = [name for name in asked if state.asked.get(name) != asked[name]]
    if changed or state.gate != prepared.name or state.wanted != options.wanted.value:
        what = ", ".join(changed) or "the gate or --better"
        raise StoreError(f"--resume {options.resume}: begun with another {what}; give the same options as then")
    return state


def _commands(options: AttributeOptions) -> list[str]:
    """The two launches that every attribution begins with."""
    if options.target.name not in LAUNCHED:
        return []
    from ds4bench.targets.choice import launch_of

    lines = []
    target = options.target
    for kernels in (ENGINE, BUNDLED):
        serving = replace(target.serving, kernels=kernels)
        launch = launch_of(target.name, target.model or "", target.serve_args, serving)
        lines += [f"# --kernels {kernels}", launch.shell_text()]
    return lines
