"""Command groups ``ds4bench serve``, ``baseline``, ``runs``, and ``attribute``. As in ``cli``, options and one call each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

serve_app = typer.Typer(help="Start a serve by itself: the embedded engine, vLLM or SGLang.", no_args_is_help=True)
baseline_app = typer.Typer(help="Stored baselines: promote a run, list, show, compare two.", no_args_is_help=True)
runs_app = typer.Typer(help="Runs under .ds4bench/runs: list, show.", no_args_is_help=True)

EnginePython = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Interpreter or environment folder that has the engine (default: this one)."),
]
Kernels = Annotated[
    str | None,
    typer.Option(
        metavar="WHOSE",
        help="Kernels of the launched serve: [b]bundled[/b], [b]engine[/b] (its own) or [b]ops=attn,indexer[/b]; the run "
        "is INVALID unless its processes prove that they ran.",
    ),
]


@serve_app.command(
    "embedded",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def serve_embedded(context: typer.Context) -> None:
    """Serve the embedded reference engine over the OpenAI API (`ds4bench serve embedded --help` lists its flags)."""
    from ds4bench.commands.serve import serve_embedded as serve

    raise typer.Exit(serve(context.args))


class _WithEngineFlags(TyperCommand):
    """A command whose usage line says where the engine's own flags go."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As of every command, and what may follow."""
        return [*super().collect_usage_pieces(ctx), "[-- ENGINE FLAGS]"]


ServeModel = Annotated[str, typer.Argument(help="Folder with config.json, or a model id.")]
ServeProfile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", help="rtx-pro-6000-tp2, h200, cpu, ... or a YAML file.")
]
ServePort = Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on.")]
ServeHost = Annotated[str, typer.Option(help="Address to listen on.")]
ServeDeadline = Annotated[float | None, typer.Option(help="Seconds until the first token must have come back.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the command and its environment, and stop there.")]


def _engine_command(engine: str, title: str, default_port: int) -> None:
    """`ds4bench serve ENGINE`: the same options for every engine that is launched from an environment of its own."""

    @serve_app.command(
        engine,
        cls=_WithEngineFlags,
        context_settings={"allow_extra_args": True},
        help=f"Launch {title} with a profile's flags and stop all of it on Ctrl-C; engine flags of your own go after `--`.",
    )
    def serve(
        context: typer.Context,
        model: ServeModel,
        profile: ServeProfile = None,
        engine_python: EnginePython = None,
        port: ServePort = default_port,
        host: ServeHost = "127.0.0.1",
        ready_deadline: ServeDeadline = None,
        kernels: Kernels = None,
        dry_run: DryRun = False,
    ) -> None:
        from ds4bench.commands.serve import serve_engine
        from ds4bench.targets.choice import Serving

        if context.args and not context.args[0].startswith("-"):
            raise typer.BadParameter(f"got an unexpected word: {context.args[0]}; the engine's own flags go after `--`")
        serving = Serving(engine_python, profile, port, host, ready_deadline, kernels=kernels)
        raise typer.Exit(serve_engine(engine, model, context.args, serving, dry_run=dry_run))


_engine_command("vllm", "vLLM", 8000)
_engine_command("sglang", "SGLang", 30000)


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


class LaunchedTarget(StrEnum):
    """Serves that can be started with one kernel and with another."""

    EMBEDDED = "embedded"
    VLLM = "vllm"
    SGLANG = "sglang"


def attribute(
    name: Annotated[str, typer.Argument(help="Gate name or path of a gate file.")],
    target: Annotated[
        LaunchedTarget, typer.Option(help="vllm, sglang, or embedded (with --serve-arg=--backend=ops on a CPU).")
    ] = LaunchedTarget.EMBEDDED,
    model: Annotated[str | None, typer.Option(help="Model id or folder to serve.")] = None,
    ops: Annotated[str, typer.Option(help="What is searched: all, or a comma list of groups and ops.")] = "all",
    better: Annotated[
        bool, typer.Option("--better", help="Name what makes the bundle better, where it is, instead of worse.")
    ] = False,
    profile: Annotated[str | None, typer.Option(help="Profile of the gate file.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats of each run instead of the gate's own.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="ID", help="Go on with an attribution that was ended.")] = None,
    serve_arg: Annotated[list[str] | None, typer.Option(metavar="FLAG", help="Flag for every serve.")] = None,
    engine_python: EnginePython = None,
    serve_profile: Annotated[str | None, typer.Option(metavar="NAME", help="How vllm or sglang serves.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the launched engine (default: a free one).")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Local copy of the data that the gate reads.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, and stop there.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The verdict line only.")] = False,
) -> None:
    """Name the bundled kernel that makes an engine worse: its own kernels against the bundle, then op by op.

    Exit codes: 0 no difference, 1 an op is named as worse, 3 INVALID, 4 INCONCLUSIVE.
    """
    from ds4bench.commands.attribute import AttributeOptions, run_attribute
    from ds4bench.run_session import TargetOptions
    from ds4bench.targets.choice import Serving

    serving = Serving(engine_python, serve_profile, port)
    options = AttributeOptions(
        gate=name,
        target=TargetOptions(target.value, None, model, tuple(serve_arg or ()), serving),
        ops=ops,
        better=better,
        profile=profile,
        overrides=tuple(set_ or ()),
        repeats=repeats,
        data=data,
        resume=resume,
        dry_run=dry_run,
        json=json_,
        quiet=quiet,
    )
    raise typer.Exit(run_attribute(options))
