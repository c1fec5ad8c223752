"""vLLM or SGLang, launched for one run from an interpreter of its own and stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ds4bench import env, keys
from ds4bench.client.control import ControlClient
from ds4bench.core import UNKNOWN_METHOD, Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets import preflight
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.cluster import ServeCluster
from ds4bench.targets.cluster_plan import ClusterPlan, plan_cluster
from ds4bench.targets.dialect import dialect_of
from ds4bench.targets.identify import Identity, identify
from ds4bench.targets.kernels import REPORT_FOLDER
from ds4bench.targets.launched import ServeProcess
from ds4bench.targets.log_reading import LogFollower, hide_secrets
from ds4bench.targets.node_preflight import NodeFacts, check_nodes
from ds4bench.targets.profile import TargetProfile, command_line, with_extra
from ds4bench.targets.ready import first_token

NODE_PYTHON = "python3"
"""On a machine of a cluster, where nobody names another."""
_POLL_S = 0.25
_ADDRESSES = ("host", "port", "model-path", "master-addr", "master-port")
_ASKED_AT = ("host", "port", "uds")
"""Flags that would make the engine listen where nobody asks."""


@dataclass(frozen=True)
class Launch:
    """Exactly what is run: ``command`` with every flag, ``environment`` on top of the user's own, and where it listens.

    With a ``cluster``, ``command`` is that of the serve that answers, ``environment`` what all nodes get (its placeholders
    not filled).
    """

    profile: TargetProfile
    model: str
    python: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    host: str
    port: int
    cluster: ClusterPlan | None = None

    @property
    def base_url(self) -> str:
        """Where the serve answers; an address that means all of them is asked on loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def key(self) -> keys.ServeKey | None:
        """The key that the serve will ask for, as far as it is known here."""
        environment = self.environment if self.cluster is None else self.cluster.serve.environment
        return keys.serve_key(self.profile.engine, self.command, environment)

    def shell_text(self) -> str:
        """The same for a shell, environment first, keys hidden; with a cluster, node by node."""
        if self.cluster is not None:
            return self.cluster.shell_text()
        shown = keys.masked_environment(self.environment)
        words = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
        return " ".join([*words, shlex.join(keys.masked(self.command))])


def plan_launch(
    profile: TargetProfile,
    model: str,
    extra: Sequence[str] = (),
    *,
    engine_python: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Launch:
    """What would be run. Starts nothing; raises TargetError for an interpreter, model or flag that cannot be right.

    ``port`` None: a free one. ``extra`` are the engine's own flags, which win over the profile's. ``environment`` comes on
    top of the profile's (a kernel plugin's switches, for example).
    """
    _check_addresses(profile, extra)
    if profile.cluster is not None:
        return _plan_cluster_launch(profile, model, extra, engine_python, host, port, environment or {})
    python = preflight.interpreter(engine_python)
    preflight.check_model(model)
    flags, words = with_extra(profile, extra)
    chosen = port if port is not None else preflight.free_port()
    values = {"python": python, "model": model, "host": host, "port": str(chosen)}
    command = [word.format(**values) for word in profile.command]
    return Launch(
        profile=profile,
        model=model,
        python=python,
        command=(*command, *command_line(flags), *words),
        environment={**profile.environment, **(environment or {})},
        host=host,
        port=chosen,
    )


def _check_addresses(profile: TargetProfile, extra: Sequence[str]) -> None:
    """Raises TargetError for an address among the engine's own flags: the serve would never be found."""
    given = {word.partition("=")[0].lstrip("-").replace("_", "-") for word in extra if word.startswith("--")}
    for name in _ASKED_AT:
        if name in given or name in profile.all_flags():
            raise TargetError(
                f"--{name} is not for the engine's own flags, ds4bench has to know the address: give the port with "
                "ds4bench's own --port (`ds4bench serve` has --host too)"
            )


def _plan_cluster_launch(
    profile: TargetProfile,
    model: str,
    extra: Sequence[str],
    engine_python: str | None,
    host: str,
    port: int | None,
    environment: Mapping[str, str],
) -> Launch:
    """The same for several machines. What is there is asked when they are started, not before a dry run."""
    assert profile.cluster is not None
    head = profile.cluster.head
    api = (host if profile.cluster.is_here(head) else head.host, port if port is not None else preflight.free_port())
    flags, words = with_extra(profile, extra)
    given = {**profile.environment, **environment}
    python = engine_python or NODE_PYTHON
    plan = plan_cluster(profile, flags, words, python=python, model=model, api=api, environment=given)
    return Launch(profile, model, python, plan.serve.command, given, *api, cluster=plan)


class EngineTarget:
    """An engine in a process group of its own, its output in ``log_path``.

    ``on_log`` (None: what ``start`` reports to) gets each line of the log while the engine starts, with ``follow_on`` until
    it is stopped.
    """

    def __init__(
        self,
        launch: Launch,
        log_path: Path,
        *,
        hardware: Mapping[str, Any] | None = None,
        on_log: Callable[[str], None] | None = None,
        follow_on: bool = False,
        ready_deadline_s: float | None = None,
        grace_s: float | None = None,
    ) -> None:
        self.launch = launch
        self.name = launch.profile.engine
        self._hardware = hardware
        self._on_log = on_log
        self._follow_on = follow_on
        self._follower: asyncio.Task[None] | None = None
        self._logs: dict[Path, LogFollower] = {}
        self._deadline_s = ready_deadline_s or launch.profile.ready_deadline_s
        self._report: Report = lambda _: None
        self._nodes: dict[str, NodeFacts] = {}
        self._key = launch.key
        self._headers = {"Authorization": f"Bearer {self._key.value}"} if self._key else {}
        self._process = _process_of(launch, log_path, grace_s or launch.profile.grace_s)

    @property
    def pid(self) -> int | None:
        """Process id of the engine's first process, which is also the group's; None before the start."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the engine's first process runs."""
        return self._process.alive()

    def death_note(self) -> str | None:
        """Exit code or signal, known cause and last words; None while it runs, and if we stopped it."""
        return self._process.death_note()

    async def start(self, report: Report) -> Endpoint:
        """Launch, wait for a token. Raises TargetError with the log's last lines when none comes."""
        self._report = report
        if self._on_log is None:
            self._on_log = lambda line: report(f"  {line}")
        launch = self.launch
        version = await self._before_launch()
        report(f"launching {launch.profile.name}; its log: {self._process.log_path}")
        started = time.monotonic()
        self._follower = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._bring_up()
                found = await self._answering()
            report(f"a token came back after {time.monotonic() - started:.0f} s")
        except TimeoutError:
            await self._stop_after(self._process.too_late("no token came back", self._deadline_s))
        except BaseException:
            await self.stop()
            raise
        if not self._follow_on:
            self._hand_on()
            self._follower.cancel()
        return Endpoint(
            base_url=launch.base_url,
            model=found.model,
            dialect=found.dialect,
            fingerprint=launched_fingerprint(found.fingerprint, launch, version, self._nodes),
            headers=self._headers,
            max_model_len=found.max_model_len,
        )

    async def stop(self) -> None:
        """End everything that the launch started; what survived, or still holds a GPU, is named."""
        following = self._follower is not None and not self._follower.done()
        if self._follower is not None:
            self._follower.cancel()
        survived = await self._process.stop()
        if following:
            self._hand_on()  # its last words
        for _, path, _ in self._process.logs():
            hide_secrets(path)
        for line in survived:
            self._report(line)

    async def _before_launch(self) -> str | None:
        """The engine's version, once everything that can be asked is right."""
        launch, module = self.launch, self.launch.profile.module
        if launch.cluster is None:
            version = preflight.engine_version(launch.python, module) if module else None
            preflight.check_port(launch.host, launch.port)
            return version
        self._report("asking every node whether it can start")
        self._nodes = await check_nodes(launch.cluster, module, (launch.host, launch.port))
        return self._nodes[launch.cluster.cluster.head.name].versions.get(module) if module else None

    async def _bring_up(self) -> None:
        if isinstance(self._process, ServeCluster):
            await self._process.start(self._report)
        else:
            self._process.launch()

    async def _stop_after(self, reason: str) -> None:
        await self.stop()
        raise TargetError(reason)

    async def _answering(self) -> Identity:
        """The serve's identity once a completion has given a token. ``/health`` can be fine while the engine is not."""
        control = ControlClient(self.launch.base_url, self._headers, timeout_s=self._deadline_s)
        try:
            while not await self._is_up(control):  # noqa: ASYNC110 - a serve that loads has no event
                await asyncio.sleep(_POLL_S)
            self._report("the port is open; waiting for a token")
            found = await identify(control, hardware=self._hardware)
            await first_token(control, found.model)
            return found
        except TargetError:
            await self._process.check_running_soon()
            raise
        finally:
            await control.close()

    async def _is_up(self, control: ControlClient) -> bool:
        """Whether it lists its models. Raises TargetError when it has ended, or wants another key than ours."""
        self._process.check_running()
        try:
            status = await control.status("/v1/models")
        except TargetError:
            return False
        if status in (401, 403):
            key = self._key
            why = f"it refuses the key from {key.source}" if key else f"it wants a key: export {env.API_KEY}=..."
            raise TargetError(f"the {self.name} serve at {control.base_url} answers HTTP {status}: {why}")
        return 200 <= status < 300

    async def _follow(self) -> None:
        while True:
            self._hand_on()
            await asyncio.sleep(_POLL_S)

    def _hand_on(self) -> None:
        """What the engine has logged since the last look, on several machines with the node's name."""
        for node, path, start in self._process.logs():
            for line in self._logs.setdefault(path, LogFollower(path, start)).new_lines():
                if self._on_log is not None and line.strip():
                    self._on_log(node + line)


def _process_of(launch: Launch, log_path: Path, grace_s: float) -> ServeProcess | ServeCluster:
    if launch.cluster is not None:
        return ServeCluster(launch.cluster, log_path, engine=launch.profile.engine, grace_s=grace_s)
    name = f"the {launch.profile.engine} serve"
    return ServeProcess(
        launch.command, log_path, name=name, environment=launch.environment, grace_s=grace_s, shown=launch.shell_text(),
        memory_advice=dialect_of(launch.profile.engine).memory_advice,
    )  # fmt: skip


def launched_fingerprint(
    told: Fingerprint, launch: Launch, version: str | None, nodes: Mapping[str, NodeFacts] | None = None
) -> Fingerprint:
    """What the serve says of itself, completed by the flags that it was launched with and the GPUs of every node."""
    flags = _given_flags(launch.command)
    environment = {name: value for name, value in launch.environment.items() if name != REPORT_FOLDER}
    if nodes:
        flags["nodes"] = {name: list(facts.gpus) for name, facts in nodes.items()}
    profile = launch.profile
    return msgspec.structs.replace(
        told,
        engine=profile.engine,
        engine_version=told.engine_version or version,
        prefix_caching=_prefix_caching(profile.engine, flags) if told.prefix_caching is None else told.prefix_caching,
        speculative=_speculative(flags) or told.speculative if _of_unknown_method(told) else told.speculative,
        weights="random" if flags.get("load-format") == "dummy" else told.weights,
        flags={
            **told.flags,
            **flags,
            "profile": profile.name,
            "environment": keys.masked_environment(environment),
        },
    )


def _given_flags(command: Sequence[str]) -> dict[str, Any]:
    """Flag -> value of a command line, keys hidden, without addresses and ports, which do not change a measurement."""
    flags: dict[str, Any] = {}
    words = keys.masked(command)
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        following = words[place + 1] if place + 1 < len(words) else "--"
        flags[name] = value if equals else (True if following.startswith("--") else following)
    return {name: value for name, value in flags.items() if name not in _ADDRESSES}


def _prefix_caching(engine: str, flags: Mapping[str, Any]) -> bool | None:
    """Both engines cache prefixes unless told not to."""
    if engine == "vllm":
        return "no-enable-prefix-caching" not in flags
    return "disable-radix-cache" not in flags if engine == "sglang" else None


def _of_unknown_method(told: Fingerprint) -> bool:
    return told.speculative is None or told.speculative.startswith(UNKNOWN_METHOD)


def _speculative(flags: Mapping[str, Any]) -> str | None:
    text = flags.get("speculative-config")
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        config = json.loads(str(text))
        return f"{config.get('method', UNKNOWN_METHOD[:-1])}-{config.get('num_speculative_tokens', '?')}"
    algorithm = flags.get("speculative-algorithm")
    return str(algorithm) if algorithm else None
