"""What a recording refuses before it measures anything, and what ``--resume`` refuses to go on with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ds4bench.commands.gate import GateOptions, run_gate
from ds4bench.core import Fingerprint, GateVerdict, Verdict
from ds4bench.errors import Ds4BenchError, SpecError
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Recording, Started, TargetOptions, check_endpoint, prepare, started
from ds4bench.spec.load import load_gate
from ds4bench.store import provenance, runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of
from tests.targets.fake_nvml import FakeGpu, FakeNvml
from tests.verdicts.conftest import World

GATES = Path(__file__).parents[2] / "gates"


def test_a_gate_of_completions_is_refused_where_the_serve_has_none_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    prepared = prepare(load_gate("gsm8k", profile="smoke", directory=GATES), None)
    hosted = Endpoint(
        "http://127.0.0.1:9", "m", dialect_of("hosted-deepseek"), Fingerprint(engine="hosted-deepseek", model="m")
    )
    serve = Started(AttachTarget("http://127.0.0.1:9"), hosted, {})
    with pytest.raises(
        SpecError, match=r"gate gsm8k sends /v1/completions, which hosted-deepseek does not have; with --set"
    ):
        Recording(prepared, serve, SilentProgress(), run_id="r1", role="candidate")
    assert not runs.list_runs()


@pytest.mark.parametrize("local", [True, False])
def test_nvml_is_open_while_a_serve_on_this_machine_is_recorded_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    nvml = FakeNvml(FakeGpu())
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    prepared = prepare(load_gate("random", profile="smoke", directory=GATES), None)
    told = Fingerprint(engine="vllm", model="m", local=local)
    serve = Started(
        AttachTarget("http://127.0.0.1:9"), Endpoint("http://127.0.0.1:9", "m", dialect_of("vllm"), told), {}
    )
    monkeypatch.setattr(provenance, "collect", dict)  # asks NVML too
    before = nvml.opened
    with Recording(prepared, serve, SilentProgress(), run_id="r1", role="candidate"):
        assert nvml.opened - before == int(local)
    assert nvml.opened == before


class Launched:
    """Stands for a serve that is there at once."""

    async def start(self, _: Any) -> Endpoint:
        return Endpoint("http://127.0.0.1:9", "m", dialect_of("vllm"), Fingerprint(engine="vllm", model="m"))

    async def stop(self) -> None:
        return None


async def test_every_start_of_a_serve_is_told_from_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TargetOptions, "make", lambda *_: Launched())
    told: dict[str, list[Any]] = {}
    for name in ("embedded", "embedded", "attach"):
        async with started(TargetOptions(name), tmp_path / "serve.log", "r1", SilentProgress()) as serve:
            told.setdefault(name, []).append(serve.asked.get("serve_start"))
    assert all(told["embedded"]) and len(set(told["embedded"])) == 2
    assert told["attach"] == [None]  # nobody knows when it began


def test_a_run_tells_the_tree_whose_engine_answered_it() -> None:
    assert TargetOptions("embedded", tree=Path("/repo")).described()["tree"] == "/repo"
    assert "tree" not in TargetOptions("embedded").described()


@pytest.mark.parametrize(("overrides", "engine"), [(["request.endpoint=chat"], "hosted-deepseek"), ([], "vllm")])
def test_the_same_gate_is_taken_where_its_endpoint_is(overrides: list[str], engine: str) -> None:
    gate = load_gate("gsm8k", profile="smoke", overrides=overrides, directory=GATES)
    check_endpoint(prepare(gate, None), dialect_of(engine))


def resume(run_id: str, baseline: str) -> int:
    return run_gate(
        GateOptions(
            gate="long-context", target="attach", url="http://127.0.0.1:9", model=None, profile=None, baseline=baseline,
            overrides=(), repeats=None, resume=run_id, serve_args=(), beside=None, json=False, quiet=True,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "baseline", "words"),
    [
        (Verdict.PASS, "none", r"is finished \(PASS\), nothing is left of it: leave out --resume to measure again"),
        (Verdict.FAIL, "here", r"is finished \(FAIL\)"),
        (Verdict.INVALID, "here", r"is finished \(INVALID\)"),
        (Verdict.INCONCLUSIVE, "none", r"is finished \(INCONCLUSIVE\), .* give --baseline to judge it"),
        (Verdict.INCONCLUSIVE, "here", "127.0.0.1:9"),  # goes on, as far as the serve that is not there
    ],
)
def test_a_finished_run_is_not_resumed_unless_a_baseline_can_still_decide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, baseline: str, words: str
) -> None:
    monkeypatch.setenv("DS4BENCH_HOME", str(GATES.parent))
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    world = World()
    run = world.run(world.gate())
    run_id = run.manifest.run_id
    with runs.RunWriter.create(run.manifest) as writer:
        for row in run.requests:
            writer.append_request(row)
        for batch in run.batches[:-1]:
            writer.append_batch(batch)
    runs.write_verdict(run_id, GateVerdict(verdict=verdict, sentence="so", checks=[], rules=[]))
    with pytest.raises(Ds4BenchError, match=r"127\.0\.0\.1:9"):  # its last batch is missing: it goes on
        resume(run_id, baseline)
    with runs.RunWriter(runs.run_folder(run_id), run.manifest) as writer:
        writer.append_batch(run.batches[-1])
    with pytest.raises(Ds4BenchError, match=words):
        resume(run_id, baseline)
