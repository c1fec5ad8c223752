"""Command groups: ``ds4bench serve``, ``baseline`` and ``runs``. As in ``cli``, options and one call each."""

from __future__ import annotations

from typing import Annotated

import typer

serve_app = typer.Typer(help="Start a serve.", no_args_is_help=True)
baseline_app = typer.Typer(help="Stored baselines: promote a run, list, show, compare two.", no_args_is_help=True)
runs_app = typer.Typer(help="Runs under .ds4bench/runs: list, show.", no_args_is_help=True)

EnginePython = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Interpreter or environment folder that has the engine (default: this one)."),
]


@serve_app.command(
    "embedded",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve_embedded(context: typer.Context) -> None:
    """Serve the embedded reference engine over the OpenAI API (`ds4bench serve embedded --help` lists its flags)."""
    from ds4bench.commands.serve import serve_embedded as serve

    raise typer.Exit(serve(context.args))


_EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
ServeModel = Annotated[str, typer.Argument(help="Folder with config.json, or a model id.")]
ServeProfile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="rtx-pro-6000-tp2, h200, cpu, ... or a YAML file.")
]
ServePort = Annotated[int, typer.Option(help="Port to listen on.")]
ServeHost = Annotated[str, typer.Option(help="Address to listen on.")]
ServeDeadline = Annotated[float | None, typer.Option(help="Seconds until the first token must have come back.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command and its environment, and stop there.")]


@serve_app.command("vllm", context_settings=_EXTRA)
def serve_vllm(
    context: typer.Context,
    model: ServeModel,
    profile: ServeProfile = None,
    engine_python: EnginePython = None,
    port: ServePort = 8000,
    host: ServeHost = "127.0.0.1",
    ready_deadline: ServeDeadline = None,
    dry_run: DryRun = False,
) -> None:
    """Launch vLLM with a profile's flags and stop all of it on Ctrl-C; engine flags of your own go after `--`."""
    from ds4bench.commands.serve import serve_engine
    from ds4bench.targets.choice import Serving

    serving = Serving(engine_python, profile, port, host, ready_deadline)
    raise typer.Exit(serve_engine("vllm", model, context.args, serving, dry_run=dry_run))


@serve_app.command("sglang", context_settings=_EXTRA)
def serve_sglang(
    context: typer.Context,
    model: ServeModel,
    profile: ServeProfile = None,
    engine_python: EnginePython = None,
    port: ServePort = 30000,
    host: ServeHost = "127.0.0.1",
    ready_deadline: ServeDeadline = None,
    dry_run: DryRun = False,
) -> None:
    """Launch SGLang with a profile's flags and stop all of it on Ctrl-C; engine flags of your own go after `--`."""
    from ds4bench.commands.serve import serve_engine
    from ds4bench.targets.choice import Serving

    serving = Serving(engine_python, profile, port, host, ready_deadline)
    raise typer.Exit(serve_engine("sglang", model, context.args, serving, dry_run=dry_run))


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
