"""The command line: options and one call each, no logic. Imports of the commands are lazy, so ``--help`` is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ds4bench import __version__
from ds4bench.cli_groups import EnginePython, Kernels, attribute, baseline_app, runs_app, serve_app
from ds4bench.cli_options import (
    GateData,
    Json,
    JunitFile,
    MaxCost,
    MaxRequests,
    Overrides,
    Port,
    Prices,
    Quiet,
    ServeArgs,
    ServeProfile,
    SuiteData,
    SummaryFile,
    TargetName,
)
from ds4bench.errors import Ds4BenchError

app = typer.Typer(
    name="ds4bench",
    help="The promotion gate for serving DeepSeek-V4-Flash: measures a serve, proves the measurement valid, decides with "
    "statistics.\n\nExit codes: 0 PASS, 1 FAIL, 2 usage error, 3 INVALID (the measurement does not measure what it says), "
    "4 INCONCLUSIVE (the noise is larger than the margin, or there is nothing to compare with), 70 a defect of ds4bench.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(serve_app, name="serve")
app.add_typer(baseline_app, name="baseline")
app.add_typer(runs_app, name="runs")
app.command()(attribute)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"ds4bench {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """Options before the command. ``--debug`` is read in ``main``, where errors end up."""


@app.command()
def gate(
    name: Annotated[str, typer.Argument(help="Gate name (`ds4bench gates` lists them) or path of a gate file.")],
    target: Annotated[
        TargetName,
        typer.Option(
            help="[b]embedded[/b] launches the bundled reference engine; [b]attach[/b] uses a running serve (--url); "
            "[b]vllm[/b] and [b]sglang[/b] are launched with --model; [b]hosted-deepseek[/b] is api.deepseek.com."
        ),
    ] = TargetName.EMBEDDED,
    url: Annotated[
        str | None, typer.Option(help="Base URL of the serve to attach to, e.g. http://127.0.0.1:8000")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model id to ask for (default: the serve's only model); vllm and sglang: id or folder to launch."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of the gate file: full (default), smoke, short, ...")
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="What to compare with: a promoted baseline's name; [b]here[/b]: this machine's own, measured too when "
            "there is none (embedded engine: in turns with the candidate); [b]none[/b]: measure only."
        ),
    ] = "none",
    set_: Overrides = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats instead of the gate's own.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted or whose serve died.")
    ] = None,
    serve_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FLAG", help="Flag for the launched serve, e.g. --serve-arg=--no-prefix-caching; repeat it."
        ),
    ] = None,
    data: GateData = None,
    engine_python: EnginePython = None,
    serve_profile: ServeProfile = None,
    port: Port = None,
    kernels: Kernels = None,
    max_requests: MaxRequests = None,
    max_cost: MaxCost = None,
    prices: Prices = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be launched and sent, and stop there.")
    ] = False,
    beside: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Show published rows beside the run, e.g. vllm-41834. Never decides."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run one gate and say PASS, FAIL, INVALID or INCONCLUSIVE.

    [b]First time on a machine:[/b]  ds4bench gate long-context --profile smoke --baseline here

    [b]Against a running vLLM:[/b]   ds4bench gate long-context --target attach --url http://127.0.0.1:8000 --baseline NAME

    Everything measured is kept under .ds4bench/runs, also after Ctrl-C or a crash of the serve: --resume RUN goes on.
    """
    from ds4bench.commands.gate import GateOptions, run_gate
    from ds4bench.targets.choice import Serving

    serving = Serving(
        engine_python, serve_profile, port, kernels=kernels, max_requests=max_requests, max_cost=max_cost, prices=prices
    )
    options = GateOptions(
        gate=name,
        target=target.value,
        url=url,
        model=model,
        profile=profile,
        baseline=baseline,
        overrides=tuple(set_ or ()),
        repeats=repeats,
        resume=resume,
        serve_args=tuple(serve_arg or ()),
        beside=beside,
        json=json_,
        quiet=quiet,
        data=data,
        serving=serving,
        dry_run=dry_run,
    )
    raise typer.Exit(run_gate(options))


@app.command()
def rescore(
    run: Annotated[str, typer.Argument(help="Run id or folder of a tool-call run.")],
    rules: Annotated[
        str | None, typer.Option(help="Rule set: v1-jasl or v1-original (default: the run's own).")
    ] = None,
    json_: Json = False,
) -> None:
    """Score a run's stored tool-call conversations by another rule set; needs no serve."""
    from ds4bench.commands.rescore import rescore_run

    rescore_run(run, rules, as_json=json_)


@app.command()
def promote(
    suite: Annotated[
        str | None,
        typer.Option(help="Suite name or file: promotion (default), smoke, ... (`ds4bench gates` lists them)."),
    ] = None,
    target: Annotated[TargetName, typer.Option(help="Who answers, as for `ds4bench gate`.")] = TargetName.EMBEDDED,
    url: Annotated[str | None, typer.Option(help="Base URL of the serve to attach to.")] = None,
    model: Annotated[str | None, typer.Option(help="Model id to ask for.")] = None,
    baseline: Annotated[
        str, typer.Option(help="What to compare with: a promoted baseline's name, [b]here[/b] or [b]none[/b].")
    ] = "here",
    data: SuiteData = None,
    serve_arg: ServeArgs = None,
    engine_python: EnginePython = None,
    serve_profile: ServeProfile = None,
    port: Port = None,
    kernels: Kernels = None,
    max_requests: MaxRequests = None,
    max_cost: MaxCost = None,
    prices: Prices = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="SUITE_RUN", help="Go on with a suite that was interrupted or whose serve died."),
    ] = None,
    junit: JunitFile = None,
    summary: SummaryFile = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a suite of gates on one serve and say whether the build may be promoted.

    A FAIL does not end it, a serve that dies does. INVALID > FAIL > INCONCLUSIVE > PASS.
    """
    from ds4bench.commands.promote import PromoteOptions, Reports, run_promote
    from ds4bench.run_session import TargetOptions
    from ds4bench.targets.choice import Serving

    serving = Serving(
        engine_python, serve_profile, port, kernels=kernels, max_requests=max_requests, max_cost=max_cost, prices=prices
    )
    options = PromoteOptions(
        suite=suite,
        target=TargetOptions(target.value, url, model, tuple(serve_arg or ()), serving),
        baseline=baseline,
        data=tuple(data or ()),
        resume=resume,
        reports=Reports(json_, quiet, junit, summary),
    )
    raise typer.Exit(run_promote(options))


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(help="Gate name or path of a gate file.")],
    target: Annotated[
        TargetName, typer.Option(help="Who answers; ds4bench must launch it, to restart it between the runs.")
    ] = TargetName.EMBEDDED,
    url: Annotated[str | None, typer.Option(help="Base URL of a hosted API instead of its own.")] = None,
    model: Annotated[str | None, typer.Option(help="Model id to ask for.")] = None,
    runs: Annotated[int, typer.Option(min=3, help="A/A runs, the serve is restarted before each.")] = 5,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="RUN", help="Use this stored run instead of new ones; repeat it."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Where the noise is stored: [b]here[/b] or a promoted baseline.")
    ] = "here",
    profile: Annotated[str | None, typer.Option(help="Profile of the gate file.")] = None,
    set_: Overrides = None,
    repeats: Annotated[int | None, typer.Option(min=2, help="Repeats of each run instead of the gate's own.")] = None,
    serve_arg: ServeArgs = None,
    engine_python: EnginePython = None,
    serve_profile: ServeProfile = None,
    max_requests: MaxRequests = None,
    max_cost: MaxCost = None,
    prices: Prices = None,
    data: GateData = None,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure how much one build differs from itself, and say what change the gate can see.

    The noise is stored with the baseline: from then on it replaces the gate file's session_cv, and a margin that is under
    what can be seen is refused (exit code 2).
    """
    from ds4bench.commands.calibrate import CalibrateOptions, run_calibrate
    from ds4bench.run_session import TargetOptions
    from ds4bench.targets.choice import Serving

    serving = Serving(engine_python, serve_profile, max_requests=max_requests, max_cost=max_cost, prices=prices)
    options = CalibrateOptions(
        gate=name,
        target=TargetOptions(target.value, url, model, tuple(serve_arg or ()), serving),
        profile=profile,
        overrides=tuple(set_ or ()),
        repeats=repeats,
        runs=runs,
        from_runs=tuple(from_ or ()),
        baseline=baseline,
        data=data,
        json=json_,
        quiet=quiet,
    )
    raise typer.Exit(run_calibrate(options))


@app.command()
def ci(
    base: Annotated[str, typer.Option(metavar="REVISION", help="What to compare this working tree with.")] = "HEAD~1",
    suite: Annotated[str | None, typer.Option(help="Suite name or file (default: commit).")] = None,
    gate_: Annotated[
        list[str] | None, typer.Option("--gate", metavar="GATE", help="Gate instead of a suite; repeat it.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Profile of the gates of --gate.")] = "smoke",
    repeats: Annotated[
        int | None, typer.Option(min=3, help="Blocks instead of the gates' own repeats (--gate).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the gates (--gate).")
    ] = None,
    data: SuiteData = None,
    serve_arg: Annotated[list[str] | None, typer.Option(metavar="FLAG", help="Flag for both serves.")] = None,
    serve_python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Interpreter of the base's serve, where it needs other packages.")
    ] = None,
    inconclusive_ok: Annotated[
        bool, typer.Option("--inconclusive-ok", help="Exit code 0 for INCONCLUSIVE: blame only what is shown.")
    ] = False,
    junit: JunitFile = None,
    summary: SummaryFile = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare this working tree with another revision of it: both serves, measured in turns (A B B A ...).

    The embedded engine of each side runs from its own tree on half of the CPU cores. While times are judged only one of
    them is under load; where answers alone are, both are asked at once.

    With --serve-arg=--threads=N they have N threads each, and always take turns.
    """
    from ds4bench.commands.ci import CiOptions, run_ci
    from ds4bench.commands.promote import Reports

    options = CiOptions(
        base=base,
        suite=suite,
        gates=tuple(gate_ or ()),
        profile=profile,
        repeats=repeats,
        overrides=tuple(set_ or ()),
        data=tuple(data or ()),
        serve_args=tuple(serve_arg or ()),
        serve_python=serve_python,
        inconclusive_ok=inconclusive_ok,
        reports=Reports(json_, quiet, junit, summary),
    )
    raise typer.Exit(run_ci(options))


@app.command()
def gates() -> None:
    """List the gates with their purpose and profiles, and the suites."""
    from ds4bench.commands.listing import show_gates

    show_gates()


@app.command()
def schema() -> None:
    """Print the JSON Schema of gate files, for editors."""
    from ds4bench.commands.listing import show_schema

    show_schema()


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="Run id or folder: the reference.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="Run id or folder: what is compared with it.")],
    other_model: Annotated[
        bool, typer.Option("--other-model", help="Compare the scores of different models, on purpose.")
    ] = False,
    json_: Json = False,
) -> None:
    """Compare two runs of a gate: scores paired by item, latencies as ratios and by rank. No verdict."""
    from ds4bench.commands.compare import compare_runs

    raise typer.Exit(compare_runs(first, second, other_model=other_model, as_json=json_))


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Result file of another tool.")],
    name: Annotated[str | None, typer.Option(help="Name for --beside (default: the file's).")] = None,
    gate: Annotated[
        str | None, typer.Option(help="Gate that its rows stand beside (default: by their content).")
    ] = None,
    hardware: Annotated[str, typer.Option(help="What it was measured on; the files do not tell.")] = "unknown",
) -> None:
    """Keep a result of vllm bench serve, SGLang bench_serving, lm-eval or GuideLLM: shown beside a run, never judged."""
    from ds4bench.commands.import_ import import_file

    import_file(file, name, gate, hardware)


def main() -> None:
    """Entry point. Errors of ours and of files become one line and exit code 2, a defect of ours one line and 70: Python's
    own exit code for both is 1, which would say FAIL."""
    try:
        app()
    except Exception as error:
        from ds4bench.verdicts.exit_codes import CRASH, USAGE

        if "--debug" in sys.argv:
            import traceback

            traceback.print_exc()
        if isinstance(error, Ds4BenchError | OSError):
            typer.echo(f"ds4bench: {error}", err=True)
            sys.exit(USAGE)
        typer.echo(
            f"ds4bench: a defect of ds4bench, no verdict: {type(error).__name__}: {error} (--debug shows the trace; what was "
            "measured is kept)",
            err=True,
        )
        sys.exit(CRASH)


if __name__ == "__main__":
    main()
