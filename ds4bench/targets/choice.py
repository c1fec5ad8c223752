"""From the options of a command to a launched engine or the hosted API: everything but attach and embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ds4bench import env
from ds4bench.errors import TargetError
from ds4bench.targets.engine import NODE_PYTHON, EngineTarget, Launch, plan_launch
from ds4bench.targets.hosted import HostedTarget
from ds4bench.targets.kernels import KernelWatch, check_plugin, parse_choice, watch
from ds4bench.targets.node_reports import NodeReports
from ds4bench.targets.pacing import Account, Limits, Pacing
from ds4bench.targets.preflight import interpreter
from ds4bench.targets.pricing import Priced, price_of
from ds4bench.targets.profile import load_profile

LAUNCHED = ("vllm", "sglang")
HOSTED = ("hosted-deepseek",)


@dataclass(frozen=True)
class Serving:
    """How the serve is launched, or what a hosted one may cost. None: the profile's own.

    ``environment`` is set on top of the profile's for a launched engine. ``prices`` is the path of a price table.
    ``kernels`` is ``bundled``, ``engine`` or ``ops=NAME,NAME``. ``account`` is what the limits are held against: one for all
    that a command starts.
    """

    engine_python: str | None = None
    profile: str | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    ready_deadline_s: float | None = None
    environment: Mapping[str, str] | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    prices: str | None = None
    kernels: str | None = None
    account: Account = field(default_factory=Account, compare=False, repr=False)

    def check(self, target: str, model: str | None) -> None:
        """Raises TargetError for options that the target has no use for, or lacks."""
        launch = {"--engine-python": self.engine_python, "--serve-profile": self.profile, "--port": self.port}
        spend = {"--max-requests": self.max_requests, "--max-cost": self.max_cost, "--prices": self.prices}
        for belongs, options in ((LAUNCHED, launch), (HOSTED, spend)):
            given = [name for name, value in options.items() if value is not None]
            if given and target not in belongs:
                raise TargetError(f"{given[0]} belongs to --target {' or '.join(belongs)}, not to --target {target}")
        if self.kernels is not None:
            parse_choice(self.kernels)
            if target not in (*LAUNCHED, "embedded"):
                raise TargetError(f"--kernels belongs to a serve that ds4bench launches, not to --target {target}")
        if target in LAUNCHED and not model:
            raise TargetError(f"--target {target} needs --model: a folder with config.json, or a model id")


def launch_of(target: str, model: str, extra: Sequence[str], serving: Serving) -> Launch:
    """What would be run for ``--target vllm`` or ``sglang``. Raises TargetError."""
    profile = load_profile(target, serving.profile)
    kernels = parse_choice(serving.kernels).environment(target) if serving.kernels is not None else {}
    return plan_launch(
        profile,
        model,
        extra,
        engine_python=serving.engine_python,
        host=serving.host,
        port=serving.port,
        environment={**kernels, **(serving.environment or {})},
    )


def check_kernels(target: str, serving: Serving) -> None:
    """Raises TargetError where bundled kernels are asked for and this shell says otherwise, or the engine's environment has
    no plugin to bring them. Of several machines their preflight asks the latter."""
    if serving.kernels is None:
        return
    choice = parse_choice(serving.kernels)
    choice.check_shell()
    if target in LAUNCHED and load_profile(target, serving.profile).cluster is None:
        check_plugin(interpreter(serving.engine_python), target, choice)


def watched(target: str, serving: Serving, log_path: Path) -> tuple[Serving, KernelWatch | None]:
    """The same serving with a report folder for the processes of the next launch, and what reads it; without ``kernels``
    nothing changes. Raises TargetError where the engine's environment has no plugin that could bring the kernels."""
    kernels = watch(serving.kernels, log_path, _node_reports(target, serving) if serving.kernels is not None else None)
    if kernels is None:
        return serving, None
    check_kernels(target, serving)
    environment = {**kernels.environment(target), **(serving.environment or {})}
    return replace(serving, environment=environment), kernels


def _node_reports(target: str, serving: Serving) -> NodeReports | None:
    """Where the processes of several machines tell; None for a serve on this one."""
    cluster = load_profile(target, serving.profile).cluster if target in LAUNCHED else None
    return None if cluster is None else NodeReports(cluster, serving.engine_python or NODE_PYTHON)


def make_target(
    target: str,
    model: str | None,
    url: str | None,
    extra: Sequence[str],
    serving: Serving,
    log_path: Path,
    hardware: Mapping[str, Any],
) -> EngineTarget | HostedTarget:
    """The target, not started. Raises TargetError for what cannot be right, the price of the model included."""
    if target in LAUNCHED:
        launch = launch_of(target, model or "", extra, serving)
        return EngineTarget(launch, log_path, hardware=hardware, ready_deadline_s=serving.ready_deadline_s)
    profile = load_profile(target)
    wanted = model or profile.model or ""
    limits = Limits(serving.max_requests, serving.max_cost)
    pacing = Pacing(limits, priced(wanted, serving), lambda _: None, serving.account)
    key = env.key(profile.key_env) if profile.key_env else None
    return HostedTarget(profile, key, pacing, model=wanted, url=url)


def priced(model: str, serving: Serving) -> Priced | None:
    """The model's price; None when it is not in the table that comes along and no limit needs it."""
    try:
        return price_of(model, Path(serving.prices) if serving.prices else None)
    except TargetError:
        if serving.max_cost is None and serving.prices is None:
            return None
        raise
