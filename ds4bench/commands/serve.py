"""``ds4bench serve``: the embedded engine in this process, vLLM or SGLang as a watched process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ds4bench import paths
from ds4bench.errors import TargetError
from ds4bench.store import ids

if TYPE_CHECKING:
    from ds4bench.targets.choice import Serving
    from ds4bench.targets.engine import EngineTarget, Launch
    from ds4bench.targets.kernels import KernelWatch

DIED = 3
"""Exit code when the engine ends by itself: what it served is not to be trusted."""


def serve_embedded(arguments: list[str]) -> int:
    """Serve the embedded engine in this process until it is stopped; the arguments are the engine's own."""
    try:
        from ds4bench.embedded.__main__ import main
    except ModuleNotFoundError as error:
        raise TargetError(f"the embedded engine needs {error.name}: pip install 'ds4bench[embedded]'") from error
    return main(arguments)


def serve_engine(engine: str, model: str, extra: Sequence[str], serving: Serving, *, dry_run: bool) -> int:
    """Show the command, launch it, say when a token came back, follow its log until Ctrl-C; then stop all of it.

    Returns 0 after Ctrl-C or SIGTERM, 3 when the engine ended by itself. Raises TargetError when it never gets ready, or
    is ready without the kernels that were asked for. The log of an engine that failed stays in the state folder.
    """
    from ds4bench.targets.choice import launch_of, watched

    launch = launch_of(engine, model, extra, serving)
    show_launch(launch)
    if dry_run:
        return 0
    log_path = _new_log(engine)
    code = None
    try:
        serving, kernels = watched(engine, serving, log_path)
        if kernels is not None:
            launch = launch_of(engine, model, extra, replace(serving, port=launch.port))
        code = asyncio.run(_serve(launch, serving, log_path, kernels))
        return code
    finally:
        if code == 0 or not log_path.exists():
            shutil.rmtree(log_path.parent, ignore_errors=True)


def _new_log(engine: str) -> Path:
    """Where the engine's output goes: a folder of its own, in which its kernels' reports lie too."""
    return paths.serves_dir() / ids.new_id(engine) / "serve.log"


def show_launch(launch: Launch) -> None:
    """Print what is run: profile, where its flags come from, environment, command."""
    profile = launch.profile
    sys.stdout.write(f"# {profile.name}: {profile.title}\n")
    if profile.source:
        sys.stdout.write(f"# flags from: {profile.source}\n")
    for note in profile.notes:
        sys.stdout.write(f"# {note}\n")
    sys.stdout.write(launch.shell_text() + "\n")
    sys.stdout.flush()


async def _serve(launch: Launch, serving: Serving, log_path: Path, kernels: KernelWatch | None = None) -> int:
    from ds4bench.targets.engine import EngineTarget

    target = EngineTarget(
        launch, log_path, on_log=_show, follow_on=True, ready_deadline_s=serving.ready_deadline_s
    )  # fmt: skip
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    starting = asyncio.create_task(_until_stopped(target, stop, kernels))

    def end() -> None:
        stop.set()
        starting.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        await starting
    except asyncio.CancelledError:
        _say("stopping")
    finally:
        with contextlib.suppress(RuntimeError):
            await target.stop()
        if kernels is not None:
            await kernels.discard()
    note = target.death_note()
    if note is not None and not stop.is_set():
        _say(f"{note} (whole log: {log_path})")
        return DIED
    return 0


async def _until_stopped(target: EngineTarget, stop: asyncio.Event, kernels: KernelWatch | None) -> None:
    from ds4bench.targets.kernels import loaded

    endpoint = await target.start(_say)
    if kernels is not None:
        _say(await loaded(endpoint.fingerprint, kernels))
    _say(f"ready: {endpoint.base_url} serves {endpoint.model}; Ctrl-C stops it")
    while target.alive() and not stop.is_set():  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(0.25)


def _say(text: str) -> None:
    sys.stderr.write(f"ds4bench: {text}\n")
    sys.stderr.flush()


def _show(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
