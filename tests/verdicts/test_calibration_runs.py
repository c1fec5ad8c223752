"""The noise of a gate's rules from A/A runs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from ds4bench.calibration_runs import measure_sessions, noise_of, refuse_early, stored_sessions, unsteady
from ds4bench.commands.calibrate import CalibrateOptions, run_calibrate
from ds4bench.core import GateVerdict, KernelUse, RunData, Verdict
from ds4bench.errors import SpecError, StoreError, TargetError
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import TargetOptions, prepare
from ds4bench.store import runs
from ds4bench.verdicts.extension import extended
from tests.verdicts.conftest import STATED


def sessions(world: Any, gate: Any, count: int, session_cv: float, repeat_cv: float) -> list[Any]:
    rng = np.random.default_rng(3)

    def one() -> Any:
        levels = np.exp(rng.normal(0, session_cv) + rng.normal(0, repeat_cv, gate.spec.repeats.count))
        return world.run(gate, ttft=lambda cell, repeat, index: float(levels[repeat] * (index + 1)))

    return [one() for _ in range(count)]


def test_the_noise_between_sessions_is_found_and_a_margin_under_it_refused(world: Any) -> None:
    gate = world.gate(repeats=4)
    (quiet,) = noise_of(gate, sessions(world, gate, 40, 0.0, 0.01))
    assert quiet.noise.repeat_cv == pytest.approx(0.01, rel=0.2)
    assert quiet.noise.session_cv < 0.005
    assert quiet.refusal is None
    (loud,) = noise_of(gate, sessions(world, gate, 40, 0.06, 0.01))
    assert loud.noise.session_cv == pytest.approx(0.06, rel=0.25)
    assert loud.noise.session_cv_upper > loud.noise.session_cv
    assert loud.refusal is not None
    assert loud.refusal.startswith("margin 10 % is under what can be seen: with 4 repeats")
    assert loud.measured.startswith("ttft: over 40 sessions of one build: noise between repeats 1.")


def test_two_sessions_or_a_gate_without_comparison_cannot_be_calibrated(world: Any) -> None:
    gate = world.gate(repeats=4)
    with pytest.raises(StoreError, match="rule ttft cannot be calibrated: 2 sessions"):
        noise_of(gate, sessions(world, gate, 2, 0.0, 0.01))
    absolute = world.gate("rules=[{kind: zero_failures}]")
    with pytest.raises(SpecError, match="no rule that compares a time"):
        refuse_early(absolute, "here", measured=True)
    with pytest.raises(SpecError, match="give --repeats 2 or more"):
        refuse_early(world.gate(repeats=1), "here", measured=True)
    refuse_early(world.gate(repeats=1), "here", measured=False)  # stored runs have the repeats that they have


def stored(run: RunData, run_id: str) -> str:
    """The run on disk, judged a PASS against something else."""
    manifest = msgspec.structs.replace(run.manifest, run_id=run_id)
    with runs.RunWriter.create(manifest) as writer:
        for row in run.requests:
            writer.append_request(row)
        for batch in run.batches:
            writer.append_batch(batch)
    runs.write_verdict(run_id, GateVerdict(verdict=Verdict.PASS, sentence="as fast", checks=[], rules=[]))
    return run_id


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder."""
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    return tmp_path


def test_stored_runs_keep_the_verdicts_that_they_had(world: Any, state: Path) -> None:
    gate = world.gate(repeats=2)
    run_ids = [stored(world.run(gate), f"r{number}") for number in range(3)]
    assert len(stored_sessions(gate, run_ids)) == 3
    assert [runs.load_run(run_id).verdict for run_id in run_ids] == [
        GateVerdict(verdict=Verdict.PASS, sentence="as fast", checks=[], rules=[])
    ] * 3


def test_a_stored_run_that_was_extended_shows_noise_and_a_torn_one_does_not(world: Any, state: Path) -> None:
    gate = world.gate("repeats.extend_to=4", repeats=2)
    run = world.run(extended(gate))
    assert stored_sessions(gate, [stored(run, "r1")])
    torn = msgspec.structs.replace(run, batches=run.batches[:-1])
    with pytest.raises(StoreError, match="run r2 cannot show noise, it is INCONCLUSIVE: interrupted"):
        stored_sessions(gate, [stored(torn, "r2")])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": {"name": "attach"}}, "run r1 is of an attached serve, which nobody restarted for it"),
        ({"target": {"name": "embedded", "tree": "/repo"}}, "run r1 is of `ds4bench ci`, in turns with another build"),
        ({"target": {"name": "embedded", "serve_start": "s0"}}, "runs r0 and r1 are of the same start of a serve"),
        ({"fingerprint": {"faults": ["slow_decode"]}}, r"run r1 was measured with injected faults \(slow_decode\)"),
        (
            {"fingerprint": {"hardware": {"cpu": "another"}}},
            "run r1 is not of the same build .* as run r0: hardware was",
        ),
        (
            {"fingerprint": {"model_revision": "seed-1"}},
            "run r1 is not .* as run r0: model_revision was 'seed-0' and is",
        ),
        ({"fingerprint": {"engine_version": "0.2.0"}}, "run r1 is not .* as run r0: engine_version was '0.1.0' and is"),
        ({"fingerprint": {"prefix_caching": False}}, "run r1 is not .* as run r0: prefix_caching was True and is"),
        (
            {"fingerprint": {"kernels": KernelUse(choice="bundled", selection=None)}},
            "run r1 is not .* kernels was None",
        ),
    ],
)
def test_runs_that_are_not_sessions_of_one_thing_are_refused(
    world: Any, state: Path, changes: dict[str, Any], words: str
) -> None:
    gate = world.gate(repeats=2)
    odd = {"fingerprint": changes.get("fingerprint", {}), "manifest": {"target": changes.get("target", {})}}
    plain = {"manifest": {"target": {"name": "embedded", "serve_start": "s0"}}}
    run_ids = [stored(world.run(gate, **(odd if number == 1 else plain)), f"r{number}") for number in (0, 1)]
    with pytest.raises(StoreError, match=words):
        stored_sessions(gate, run_ids)


def test_starts_of_one_build_are_sessions(world: Any, state: Path) -> None:
    gate = world.gate(repeats=2)
    targets = [{"name": "embedded", "serve_start": f"s{number}"} for number in range(2)]
    targets.append({"name": "embedded"})  # a run of before starts were told
    runs_made = [
        stored(world.run(gate, manifest={"target": target}), f"r{number}") for number, target in enumerate(targets)
    ]
    assert len(stored_sessions(gate, runs_made)) == 3


def at_speed(world: Any, gate: Any, probes: list[float], **changes: Any) -> RunData:
    """A run whose probe before each batch takes these milliseconds in turn."""
    run: RunData = world.run(gate, **changes)
    batches = [
        msgspec.structs.replace(batch, probe_ms=probes[place % len(probes)]) for place, batch in enumerate(run.batches)
    ]
    return msgspec.structs.replace(run, batches=batches)


def test_a_machine_that_was_not_steady_between_the_sessions_is_told(world: Any) -> None:
    gate = world.gate(repeats=4)
    first, same = at_speed(world, gate, [50.0, 50.1]), at_speed(world, gate, [50.2, 50.0])
    assert unsteady(gate, [first, same, same]) == []
    slow = at_speed(world, gate, [58.0, 58.1], manifest={"run_id": "r2"})
    assert unsteady(gate, [first, same, slow]) == [
        f"run r2: this machine runs the fixed CPU probe 16 % slower than in run {first.manifest.run_id}: the noise holds "
        "what the machine changed, not what one build differs from session to session alone"
    ]
    torn = at_speed(world, gate, [40.0, 62.0], manifest={"run_id": "r3"})
    (shared,) = unsteady(gate, [first, torn])
    assert "it differs from batch to batch" in shared and "baseline" not in shared
    elsewhere = at_speed(world, gate, [90.0], fingerprint={"local": False})
    assert unsteady(gate, [elsewhere, first]) == unsteady(gate, [first, elsewhere]) == []


def test_calibrate_stores_the_noise_of_an_unsteady_machine_and_says_so(
    world: Any, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = world.gate(repeats=2)
    speeds = ([50.0], [50.0], [60.0])
    run_ids = [stored(at_speed(world, gate, probes), f"r{number}") for number, probes in enumerate(speeds)]
    options = CalibrateOptions(
        gate="long-context", target=TargetOptions("embedded"), profile="smoke", overrides=STATED, repeats=2, runs=3,
        from_runs=tuple(run_ids), baseline="here", data=None, json=True, quiet=True,
    )  # fmt: skip
    run_calibrate(options)
    told = json.loads(capsys.readouterr().out)
    (note,) = told["notes"]
    assert note.startswith("run r2: this machine runs the fixed CPU probe 20 % slower than in run r0")
    assert Path(told["baseline"]).exists()
    run_calibrate(replace(options, json=False))
    assert f"note: {note}" in capsys.readouterr().out


async def test_faults_are_refused_before_hours_are_measured(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = world.run(world.gate(), fingerprint={"faults": ["slow_decode"]}).manifest.fingerprint
    serve = SimpleNamespace(endpoint=SimpleNamespace(fingerprint=fingerprint))
    monkeypatch.setattr("ds4bench.calibration_runs.started", lambda *_: nullcontext(serve))
    with pytest.raises(
        TargetError, match=r"injected faults \(slow_decode\): its noise would be kept for the serve without"
    ):
        await measure_sessions(prepare(world.gate(), None), TargetOptions("embedded"), 3, SilentProgress())


async def test_ops_made_wrong_on_purpose_are_known_once_measured_and_refused(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run(world.gate(), fingerprint={"faults": ["fp8_einsum doubled"]})
    clean = world.run(world.gate()).manifest.fingerprint
    serve = SimpleNamespace(endpoint=SimpleNamespace(fingerprint=clean))
    monkeypatch.setattr("ds4bench.calibration_runs.started", lambda *_: nullcontext(serve))

    async def measured(*_: Any, **__: Any) -> RunData:
        assert isinstance(run, RunData)
        return run

    monkeypatch.setattr("ds4bench.calibration_runs.measure", measured)
    with pytest.raises(TargetError, match=r"injected faults \(fp8_einsum doubled\)"):
        await measure_sessions(prepare(world.gate(), None), TargetOptions("embedded"), 3, SilentProgress())


async def test_a_serve_that_somebody_else_started_is_not_restarted(world: Any) -> None:
    prepared = prepare(world.gate(), None)
    with pytest.raises(TargetError, match="cannot restart one that it did not launch"):
        await measure_sessions(prepared, TargetOptions("attach", "http://127.0.0.1:1"), 3, SilentProgress())
