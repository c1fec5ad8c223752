"""Suites and calibrate on the embedded engine: real serves, real runs, small gates with wide margins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e.small_suite import batches, fill, run, start

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("suite"))


def promote(*args: str) -> list[str]:
    return ["promote", "--suite", "mine.yaml", "--serve-arg=--weights=random", *args]


def state_of(folder: Path) -> dict[str, Any]:
    """The newest suite run."""
    written = (folder / ".ds4bench" / "suites").glob("*/suite.json")  # a folder is made before its file
    document: dict[str, Any] = json.loads(max(written, key=lambda p: p.parent.stat().st_ctime).read_text())
    return document


def wait_for_gate(folder: Path, process: subprocess.Popen[str], place: int, before: str) -> dict[str, Any]:
    """The suite's state once its gate at ``place`` has measured a batch."""
    found: dict[str, Any] = {}

    def measured() -> bool:
        found.update(state_of(folder))
        begun = found["gates"][place]["run"] if found["run_id"] != before else None
        return begun is not None and any(row["phase"] == "measure" for row in batches(folder, begun))

    wait_for(measured, process)
    return found


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def manifest(folder: Path, run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / ".ds4bench" / "runs" / run_id / "run.json").read_text())
    return document


@pytest.fixture(scope="module")
def promoted(folder: Path) -> tuple[int, dict[str, Any]]:
    code, document, err = run(folder, *promote("--baseline", "here", "--junit", "j.xml", "--summary", "s.md"))
    assert document, err
    return code, document


def test_a_suite_goes_on_after_a_fail_and_ends_with_one_verdict(
    promoted: tuple[int, dict[str, Any]], folder: Path
) -> None:
    code, document = promoted
    verdicts = {gate["gate"]: gate["verdict"] for gate in document["gates"]}
    assert (code, document["verdict"], verdicts["bounded"]) == (1, "FAIL", "FAIL")
    assert verdicts["small"] in (
        "PASS",
        "INCONCLUSIVE",
        "FAIL",
    )  # decided; by how much is up to a machine with other work
    assert document["sentence"].startswith("bounded: ttft_max_s is ")
    cases = [case.get("name") for case in ElementTree.parse(folder / "j.xml").iter("testcase")]
    assert cases == ["bounded.full", "small.full"]
    assert "| bounded | full | ❌ FAIL |" in (folder / "s.md").read_text()


def test_only_a_gate_that_compares_is_measured_twice_and_one_serve_carries_all(
    promoted: tuple[int, dict[str, Any]], folder: Path
) -> None:
    state = state_of(folder)
    assert [bool(gate["baseline_run"]) for gate in state["gates"]] == [False, True]
    suite = folder / ".ds4bench" / "suites" / state["run_id"]
    assert len(list(suite.glob("serve-*.log"))) == 2  # the baseline's and the candidates'
    starts = {role: manifest(folder, state["gates"][1][role])["target"] for role in ("baseline_run", "run")}
    assert [target["role"] for target in starts.values()] == ["baseline", "candidate"]
    assert len({target["serve_start"] for target in starts.values()}) == 2


@pytest.mark.slow
def test_a_first_suite_that_is_interrupted_measures_the_torn_pair_again(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    process = start(folder, *promote("--baseline", "here"))
    runs = folder / ".ds4bench" / "runs"
    wait_for(lambda: len(list(runs.glob("*small*/batches.jsonl"))) == 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    state = state_of(folder)
    assert process.returncode == 130
    assert f"ds4bench promote --resume {state['run_id']}" in err
    code, document, err = run(folder, "promote", "--resume", state["run_id"])
    assert (code, document["verdict"]) == (1, "FAIL"), err  # of the gate that is bounded
    resumed = state_of(folder)["gates"]
    assert [gate["done"] for gate in resumed] == [True, True]
    assert resumed[0]["run"] == state["gates"][0]["run"]
    assert {manifest(folder, resumed[1][role])["target"]["role"] for role in ("baseline_run", "run")} == {
        "baseline", "candidate",
    }  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_suite_goes_on_where_it_stopped(promoted: tuple[int, dict[str, Any]], folder: Path) -> None:
    process = start(folder, *promote("--baseline", "here"))
    state = wait_for_gate(folder, process, 1, promoted[1]["suite_run"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"ds4bench promote --resume {state['run_id']}" in err
    kept = batches(folder, state["gates"][1]["run"])
    foreseen = manifest(folder, state["gates"][1]["run"])["detectable"]
    assert foreseen[0].startswith("ttft: with 3 repeats and the baseline's noise this gate can see a change of ")
    code, document, err = run(folder, "promote", "--resume", state["run_id"])
    assert (code, document["verdict"]) == (1, "FAIL"), err
    assert [gate["run"] for gate in document["gates"]] == [gate["run"] for gate in state["gates"]]
    assert batches(folder, state["gates"][1]["run"])[: len(kept)] == kept
    assert len(list((folder / ".ds4bench" / "suites" / state["run_id"]).glob("serve-*.log"))) == 1


@pytest.mark.slow
def test_a_serve_that_dies_ends_the_suite_invalid(promoted: tuple[int, dict[str, Any]], folder: Path) -> None:
    before = state_of(folder)["run_id"]
    process = start(folder, *promote("--baseline", "here", "--json"))
    wait_for_gate(folder, process, 0, before)
    (serve,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(serve), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    document = json.loads(out)
    assert (process.returncode, document["verdict"]) == (3, "INVALID"), err
    assert "server died" in document["sentence"]


@pytest.mark.slow
def test_calibrate_restarts_the_serve_measures_the_noise_and_keeps_it(folder: Path) -> None:
    arguments = ["small.yaml", "--runs", "3", "--set", "rules.ttft.margin=1.0", "--serve-arg=--weights=random"]
    code, document, err = run(folder, "calibrate", *arguments)
    assert code in (0, 2), err
    (rule,) = document["rules"]
    assert rule["noise"]["sessions"] == 3
    assert rule["noise"]["repeat_cv"] > 0
    assert "this gate can see a change of" in rule["sight"]
    kept = json.loads(Path(document["baseline"]).read_text())
    assert kept["noise"]["ttft"]["runs"] == rule["noise"]["runs"]
    logs = [folder / ".ds4bench" / "runs" / run_id / "serve.log" for run_id in rule["noise"]["runs"]]
    assert all(log.exists() for log in logs)
    code, _, err = run(folder, "calibrate", *arguments, *(f"--from={run_id}" for run_id in rule["noise"]["runs"][:2]))
    assert code == 2
    assert "2 sessions show no noise between them" in err


def test_calibrate_wants_runs_that_exist(folder: Path) -> None:
    code, _, err = run(folder, "calibrate", "long-context", "--profile", "smoke", "--from", "none-such")
    assert code == 2
    assert "no run in" in err
