"""The command line: options and one call each, no logic. Imports of the commands are lazy, so ``--help`` is instant."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from ds4bench import __version__
from ds4bench.errors import Ds4BenchError

app = typer.Typer(
    name="ds4bench",
    help="The promotion gate for serving DeepSeek-V4-Flash: measures a serve, proves the measurement valid, decides with "
    "statistics.\n\nExit codes: 0 PASS, 1 FAIL, 2 usage error, 3 INVALID (the measurement does not measure what it says), "
    "4 INCONCLUSIVE (the noise is larger than the margin, or there is nothing to compare with).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
serve_app = typer.Typer(help="Start a serve.", no_args_is_help=True)
baseline_app = typer.Typer(help="Stored baselines: promote a run, list, show, compare two.", no_args_is_help=True)
runs_app = typer.Typer(help="Runs under .ds4bench/runs: list, show.", no_args_is_help=True)
app.add_typer(serve_app, name="serve")
app.add_typer(baseline_app, name="baseline")
app.add_typer(runs_app, name="runs")


class TargetName(StrEnum):
    """Who answers."""

    EMBEDDED = "embedded"
    ATTACH = "attach"


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
            help="[b]embedded[/b] launches the bundled reference engine; [b]attach[/b] uses a running serve (--url)."
        ),
    ] = TargetName.EMBEDDED,
    url: Annotated[
        str | None, typer.Option(help="Base URL of the serve to attach to, e.g. http://127.0.0.1:8000")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id to ask for (default: the serve's only model).")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Profile of the gate file: full (default), smoke, short, ...")
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="What to compare with: a promoted baseline's name; [b]here[/b]: this machine's own, measured first when "
            "there is none; [b]none[/b]: measure only."
        ),
    ] = "none",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Override a value of the gate, e.g. --set request.max_tokens=64"
        ),
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats instead of the gate's own.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted.")] = None,
    serve_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="FLAG", help="Flag for the launched serve, e.g. --serve-arg=--no-prefix-caching"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Local copy of the data that the gate reads, e.g. MT-bench's question.jsonl."
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Show published rows beside the run, e.g. vllm-41834. Never decides."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The verdict line only.")] = False,
) -> None:
    """Run one gate and say PASS, FAIL, INVALID or INCONCLUSIVE.

    [b]First time on a machine:[/b]  ds4bench gate long-context --profile smoke --baseline here

    [b]Against a running vLLM:[/b]   ds4bench gate long-context --target attach --url http://127.0.0.1:8000 --baseline NAME

    Everything measured is kept under .ds4bench/runs, also after Ctrl-C or a crash of the serve: --resume RUN goes on.
    """
    from ds4bench.commands.gate import GateOptions, run_gate

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
    )
    raise typer.Exit(run_gate(options))


@app.command()
def gates() -> None:
    """List the gates with their purpose and profiles."""
    from ds4bench.commands.listing import show_gates

    show_gates()


@app.command()
def schema() -> None:
    """Print the JSON Schema of gate files, for editors."""
    from ds4bench.commands.listing import show_schema

    show_schema()


@serve_app.command(
    "embedded",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve_embedded(context: typer.Context) -> None:
    """Serve the embedded reference engine over the OpenAI API (`ds4bench serve embedded --help` lists its flags)."""
    from ds4bench.commands.serve import serve_embedded as serve

    raise typer.Exit(serve(context.args))


@baseline_app.command("promote")
def baseline_promote(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    name: Annotated[str, typer.Argument(help="Name of the baseline, e.g. h200-vllm-0.25")],
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote an invalid or incomplete run; the reason is stored.")
    ] = None,
) -> None:
    """Make a valid run a baseline under results/baselines/NAME."""
    from ds4bench.commands.baseline import promote

    promote(run, name, force)


@baseline_app.command("list")
def baseline_list() -> None:
    """List the stored baselines, this machine's own included."""
    from ds4bench.commands.baseline import show_list

    show_list()


@baseline_app.command("show")
def baseline_show(name: Annotated[str, typer.Argument(help="Baseline name, or path of a baseline file.")]) -> None:
    """Show what a baseline holds."""
    from ds4bench.commands.baseline import show

    show(name)


@baseline_app.command("diff")
def baseline_diff(
    first: Annotated[str, typer.Argument(help="Baseline name or path.")],
    second: Annotated[str, typer.Argument(help="Baseline name or path.")],
) -> None:
    """Compare two baselines cell by cell, and say whether they are comparable."""
    from ds4bench.commands.baseline import show_diff

    show_diff(first, second)


@runs_app.command("list")
def runs_list() -> None:
    """List the runs, newest first."""
    from ds4bench.commands.runs import show_list

    show_list()


@runs_app.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="Run id or folder.")],
    beside: Annotated[str | None, typer.Option(metavar="SOURCE", help="Published rows to show beside it.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show a run's report again."""
    from ds4bench.commands.runs import show

    show(run, beside, as_json=json_)


def main() -> None:
    """Entry point: errors of ours become one line and exit code 2."""
    debug = "--debug" in sys.argv
    try:
        app()
    except Ds4BenchError as error:
        if debug:
            raise
        typer.echo(f"ds4bench: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
