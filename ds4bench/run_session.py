"""One gate, measured once on a serve that is up: the run folder, the runner, the extension. What every command shares.

Who answers, which baseline counts and what happens with the outcome is the commands' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ds4bench import env, keys
from ds4bench.core import Baseline, CheckStatus, Fingerprint, GateVerdict, RunData, RunManifest
from ds4bench.errors import Ds4BenchError, SpecError, TargetDiedError, TargetError
from ds4bench.gate_runner import GateRunner
from ds4bench.spec.load import EffectiveGate, effective
from ds4bench.store import cpu_probe, ids, provenance, runs
from ds4bench.targets.address import root_of
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.choice import HOSTED, Serving, make_target, watched
from ds4bench.targets.embedded import EmbeddedTarget
from ds4bench.targets.engine import EngineTarget
from ds4bench.targets.gpu_watch import GpuWatch
from ds4bench.targets.kernels import loaded, told_of_kernels
from ds4bench.targets.launched import launched_here
from ds4bench.verdicts.decide import decide, left_unverified
from ds4bench.verdicts.early import decided_early, may_stop
from ds4bench.verdicts.extension import as_measured, extension_due, whole
from ds4bench.verdicts.foresight import foresee
from ds4bench.workloads.registry import make_workload, read_data

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ds4bench.report.progress import Progress
    from ds4bench.targets.base import Endpoint, Target
    from ds4bench.targets.dialect import Dialect
    from ds4bench.workloads.dataset import DataSet

NO_BASELINE = "no baseline: name one with --baseline, or use --baseline here"


class RunInterruptedError(Ds4BenchError):
    """Ctrl-C in the middle of a run; everything finished is kept."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"interrupted in run {run_id}; everything finished is kept")
        self.run_id = run_id


@dataclass(frozen=True)
class TargetOptions:
    """Who shall answer, as given on the command line. ``python`` and ``tree`` launch another checkout's engine."""

    name: str
    url: str | None = None
    model: str | None = None
    serve_args: tuple[str, ...] = ()
    serving: Serving = field(default_factory=Serving)
    python: str | None = None
    tree: Path | None = None

    def check(self) -> None:
        """Raises TargetError for options that contradict each other."""
        if self.name == "attach" and not self.url:
            raise TargetError("--target attach needs --url, e.g. --url http://127.0.0.1:8000")
        if self.name != "attach" and self.name not in HOSTED and self.url:
            raise TargetError("--url belongs to --target attach")
        if self.url:
            root_of(self.url)
        self.serving.check(self.name, self.model)
        if self.name in ("attach", *HOSTED) and self.serve_args:
            raise TargetError(f"--serve-arg belongs to a target that ds4bench launches, not to --target {self.name}")

    def make(self, log_path: Path) -> Target:
        """The target, not started."""
        hardware = provenance.hardware_fingerprint()
        if self.name == "attach":
            return AttachTarget(self.url or "", self.model, env.api_key(), hardware=hardware)
        if self.name != "embedded":
            return make_target(self.name, self.model, self.url, self.serve_args, self.serving, log_path, hardware)
        given = self.serving.environment
        if self.tree is None and self.python is None:
            return EmbeddedTarget(log_path, self.serve_args, hardware=hardware, environment=given)
        return EmbeddedTarget(
            log_path, self.serve_args, hardware=hardware, command=self._command(), environment=given
        )  # fmt: skip

    def described(self) -> dict[str, Any]:
        """What a run keeps of it."""
        described = {"name": self.name, "url": self.url, "serve_args": keys.masked(self.serve_args)}
        tree = None if self.tree is None else str(self.tree)
        given = {"serve_profile": self.serving.profile, "kernels": self.serving.kernels, "tree": tree}
        return described | {name: value for name, value in given.items() if value}

    def _command(self) -> Sequence[str]:
        """The engine of another tree. ``-P``: the working folder must not come before PYTHONPATH."""
        import sys

        command = [self.python or sys.executable, "-P", "-m", "ds4bench.embedded"]
        return command if self.tree is None else ["env", f"PYTHONPATH={self.tree}:{self.tree / 'kernels'}", *command]


@dataclass(frozen=True)
class Started:
    """A target from which a token has come back. ``asked`` goes into the manifests of its runs."""

    target: Target
    endpoint: Endpoint
    asked: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A gate and the items that its workload read, if it reads any."""

    gate: EffectiveGate
    data: DataSet | None

    @property
    def name(self) -> str:
        """The gate's name."""
        return self.gate.spec.name

    def new_run_id(self) -> str:
        """A fresh run id."""
        return runs.new_run_id(self.name, self.gate.profile)


@dataclass(frozen=True)
class Outcome:
    """A finished run as stored, what it was compared with, the verdict."""

    run: RunData
    baseline: Baseline | None
    verdict: GateVerdict


def prepare(gate: EffectiveGate, source: str | None) -> Prepared:
    """Read the gate's data, which becomes part of its measurement. Raises WorkloadError, SpecError."""
    data = read_data(gate.spec, source or (gate.data.source if gate.data else None))
    return Prepared(effective(gate.spec, gate.profile, data.identity) if data else gate, data)


@contextlib.asynccontextmanager
async def started(options: TargetOptions, log_path: Path, run_id: str, progress: Progress) -> AsyncIterator[Started]:
    """The target while it runs. Ctrl-C cancels this task instead of killing the process, so that all is closed; it comes
    out as RunInterruptedError. ``run_id`` is what an interruption before the first run is called by. Raises TargetError for
    a serve that never answers, or answers without the kernels that were asked for."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    serving, kernels = watched(options.name, options.serving, log_path)
    target = replace(options, serving=serving).make(log_path)
    asked = options.described()
    if options.name not in ("attach", *HOSTED):  # what tells the sessions of one serve from each other
        asked["serve_start"] = ids.new_id("serve")
    if isinstance(target, EngineTarget):
        asked["launch"] = target.launch.shell_text()
        progress.note(f"launching: {asked['launch']}")
    try:
        endpoint = replace(await target.start(progress.phase), kernels=kernels)
        if kernels is not None:
            progress.note(await loaded(endpoint.fingerprint, kernels))
        yield Started(target, endpoint, asked)
    except asyncio.CancelledError:
        raise RunInterruptedError(run_id) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await target.stop()
        if kernels is not None:
            await kernels.discard()


class Recording:
    """One run of one gate on one serve: open it, ``run`` it (in one go or repeat by repeat), read it back.

    A context manager, because it holds the run folder's lock. Raises SpecError for a margin that calibrated noise
    refuses, before anything is measured.
    """

    def __init__(
        self, prepared: Prepared, serve: Started, progress: Progress, *, run_id: str, role: str,
        resumed: RunData | None = None, baseline: Baseline | None = None,
    ) -> None:  # fmt: skip
        self.gate, self.run_id, self.baseline, self.progress = prepared.gate, run_id, baseline, progress
        sights = foresee(self.gate.spec, baseline) if resumed is None else []
        for sight in sights:
            progress.note(sight.sentence)
        refused = [sight.refusal for sight in sights if sight.refusal]
        if refused:
            raise SpecError(f"gate {prepared.name}: {'; '.join(refused)}")
        check_endpoint(prepared, serve.endpoint.dialect)
        if resumed is not None:
            check_same_serve(resumed, serve.endpoint)
        manifest = self._manifest({**serve.asked, "role": role}, [sight.sentence for sight in sights])
        self._writer = runs.RunWriter.create(manifest) if resumed is None else runs.RunWriter.reopen(run_id)
        self._endpoint = serve.endpoint
        self._writer.set_fingerprint(self._fingerprint())
        local = serve.endpoint.fingerprint.local
        self._gpus = GpuWatch.open(launched_here, launched=serve.target.pid is not None) if local else None
        self._runner = GateRunner(
            self.gate, serve.target, serve.endpoint, make_workload(self.gate.spec, run_id, prepared.data), self._writer,
            progress, probe_ms=cpu_probe.cpu_probe_ms if local else None,
            gpu_states=self._gpus.states if self._gpus is not None else None, decided=self._early_stop(),
        )  # fmt: skip

    async def run(self, repeats: int | None = None) -> None:
        """Measure what the run lacks of ``repeats``; a serve that dies is recorded. Raises RunInterruptedError."""
        try:
            await self._runner.run(self.load(), repeats)
        except TargetDiedError as error:
            self._writer.record_death(str(error))
        except asyncio.CancelledError:
            raise RunInterruptedError(self.run_id) from None
        finally:
            await self._collect_reports()
            self._writer.set_fingerprint(self._fingerprint())

    async def _collect_reports(self) -> None:
        if self._endpoint.kernels is not None:
            for line in await self._endpoint.kernels.collect():
                self.progress.note(line)

    async def run_to_the_end(self) -> None:
        """All repeats, and the declared extension when they leave the comparison open. Where a part of it is there already it
        is due: no verdict could be made of a part."""
        followed = as_measured(self.gate, self.load()).spec.repeats.count
        await self.run(followed)
        most, now = self.gate.spec.repeats.extend_to, self.load()
        if self.baseline is None or now.died or followed == most:
            return
        if not extension_due(self.gate, decide(self.gate, now, self.baseline)):
            return
        self.progress.note(f"INCONCLUSIVE after {self.gate.spec.repeats.count} repeats: extended once, to {most}")
        await self.run(most)

    def load(self) -> RunData:
        """The run as it is on disk."""
        return runs.load_run(self.run_id)

    def __enter__(self) -> Recording:
        """The recording itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the run folder, and NVML."""
        if self._gpus is not None:
            self._gpus.close()
        self._writer.close()

    def _fingerprint(self) -> Fingerprint:
        """Who answers, with what its kernels have told so far."""
        told, kernels = self._endpoint.fingerprint, self._endpoint.kernels
        return told if kernels is None else told_of_kernels(told, kernels)

    def _early_stop(self) -> Callable[[], str | None] | None:
        """What the runner asks between two batches; None for a gate that always runs to its end."""
        if not may_stop(self.gate.spec):
            return None
        return lambda: decided_early(self.gate, self.load(), self.baseline)

    def _manifest(self, target: dict[str, Any], detectable: list[str]) -> RunManifest:
        gate = self.gate
        return RunManifest(
            schema=runs.SCHEMA, run_id=self.run_id, created=runs.utc_now(), gate=gate.spec.name, profile=gate.profile,
            effective_gate=gate.to_dict(), measurement_hash=gate.measurement_hash, measurement=gate.measurement,
            target=target, fingerprint=None, provenance=provenance.collect(), detectable=detectable,
        )  # fmt: skip


async def measure(
    prepared: Prepared, serve: Started, progress: Progress, *, run_id: str, role: str,
    resumed: RunData | None = None, baseline: Baseline | None = None,
) -> RunData:  # fmt: skip
    """One run from beginning to end, or the rest of ``resumed``."""
    recording = Recording(
        prepared, serve, progress, run_id=run_id, role=role, resumed=resumed, baseline=baseline
    )  # fmt: skip
    with recording:
        await recording.run_to_the_end()
    return recording.load()


def outcome_of(gate: EffectiveGate, run: RunData, baseline: Baseline | None) -> Outcome:
    """The verdict, kept nowhere: a stored run that another command reads keeps the one that it has."""
    verdict = decide(gate, run, baseline, baseline_refusal=[NO_BASELINE] if baseline is None else [])
    return Outcome(run, baseline, verdict)


def judged(gate: EffectiveGate, run: RunData, baseline: Baseline | None) -> Outcome:
    """The verdict, kept in the run folder."""
    outcome = outcome_of(gate, run, baseline)
    runs.write_verdict(run.manifest.run_id, outcome.verdict)
    return outcome


def fit_for_baseline(gate: EffectiveGate, outcome: Outcome) -> bool:
    """Whether a run that had nothing to be compared with can be compared with: complete, no check failed, and verified what
    its gate cannot do without."""
    checks = outcome.verdict.checks
    failed = any(check.status is CheckStatus.FAILED for check in checks)
    return whole(gate, outcome.run) and not failed and not left_unverified(gate.spec, checks)


def check_endpoint(prepared: Prepared, dialect: Dialect) -> None:
    """Raises SpecError when the gate sends completions and the serve has none."""
    if prepared.gate.spec.request.endpoint == "completions" and not dialect.completions:
        raise SpecError(
            f"gate {prepared.name} sends /v1/completions, which {dialect.engine} does not have; with --set "
            "request.endpoint=chat it is another measurement, comparable only with runs of the same"
        )


SAME_SERVE = ("engine", "engine_version", "model", "model_revision", "weights", "flags", "faults", "hardware")
"""Fields of the fingerprint in which two starts of one serve are equal."""


def serve_difference(before: Fingerprint, now: Fingerprint, fields: Sequence[str] = SAME_SERVE) -> str | None:
    """The first of the fields in which two serves differ, as a clause; None where all are equal."""
    for name in fields:
        if getattr(before, name) != getattr(now, name):
            return f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
    return None


def check_same_serve(resumed: RunData, endpoint: Endpoint) -> None:
    """Raises TargetError when a run is to go on against another serve than it began with."""
    before, now = resumed.manifest.fingerprint, endpoint.fingerprint
    if endpoint.kernels is not None:
        now = told_of_kernels(now, endpoint.kernels)
    if before is None:
        return
    if detail := serve_difference(before, now):
        raise TargetError(f"cannot resume on another serve: {detail}; start a new run instead")
    kernels = before.kernels.choice if before.kernels else None
    if kernels != (endpoint.kernels.choice.text if endpoint.kernels else None):
        again = f"--kernels {kernels}" if kernels else "no --kernels"
        raise TargetError(f"cannot resume on other kernels: the run was begun with {again}")
