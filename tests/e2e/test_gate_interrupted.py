"""A run that is cut short keeps what was measured and can be resumed; runs that need no baseline. No verdict about time."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.small_gate import GATE, child_of, gate, lines, measured, newest_run, start, wait_for

pytestmark = pytest.mark.integration

RECALL = "  - {name: recall, kind: recall, threshold: 0.9}\n"
SHORTER = GATE.replace(RECALL, "").replace("max_tokens: 24", "max_tokens: 8").replace("count: 3", "count: 2")


def prepared(folder: Path) -> Path:
    (folder / "small.yaml").write_text(SHORTER)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the gate and no baseline."""
    return prepared(tmp_path)


def only_run(folder: Path) -> Path:
    run = newest_run(folder)
    assert run is not None
    return run


def assert_whole(code: int, document: dict[str, Any], run: Path, kept: list[dict[str, Any]], err: str) -> None:
    """The resumed run is the one that was cut short, holds its batches as they were and each of the rest once."""
    failed = [check["name"] for check in document["verdict"]["checks"] if check["status"] == "failed"]
    if failed == ["client_not_starved"]:  # a busy machine
        assert code == 3, err
    else:
        assert code == 4, err
        assert "no baseline" in document["verdict"]["sentence"]
        rules = {rule["rule"]: rule["verdict"] for rule in document["verdict"]["rules"] if rule["cell"] is None}
        assert rules == {"ttft": "INCONCLUSIVE", "failures": "PASS"}
    assert document["run"] == run.name
    after = lines(run / "batches.jsonl")
    assert after[: len(kept)] == kept
    done = [(b["cell"], b["repeat"]) for b in after if b["phase"] == "measure"]
    assert sorted(done) == sorted({(c, r) for c in ("p540-c1", "p540-c2") for r in range(2)})


def test_a_killed_serve_makes_the_run_invalid_keeps_the_data_and_resume_completes_it(folder: Path) -> None:
    process = start(folder, "--json")
    wait_for(lambda: measured(folder) >= 2, process, "second batch")
    run = only_run(folder)
    os.kill(child_of(process.pid), signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    verdict = json.loads(out)["verdict"]
    assert (process.returncode, verdict["verdict"]) == (3, "INVALID")
    assert "server died" in verdict["sentence"]
    assert "SIGKILL" in verdict["sentence"]
    kept = lines(run / "batches.jsonl")
    assert len(kept) >= 2
    code, document, err = gate(folder, "--resume", run.name)
    assert_whole(code, document, run, kept, err)


@pytest.mark.slow
def test_a_killed_client_loses_at_most_the_requests_in_flight(folder: Path) -> None:
    process = start(folder)
    wait_for(lambda: measured(folder) >= 2, process, "second batch")
    run = only_run(folder)
    process.kill()
    process.communicate()
    kept = lines(run / "batches.jsonl")
    code, document, err = gate(folder, "--resume", run.name)
    assert_whole(code, document, run, kept, err)


@dataclass(frozen=True)
class Interrupted:
    folder: Path
    run: Path
    code: int
    err: str
    serve: int


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A run that Ctrl-C ended after a measured batch."""
    folder = prepared(tmp_path_factory.mktemp("interrupted"))
    process = start(folder)
    wait_for(lambda: measured(folder) >= 1, process, "batch")
    serve = child_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return Interrupted(folder, only_run(folder), process.returncode, err, serve)


def test_ctrl_c_keeps_what_was_measured_and_says_how_to_resume(interrupted: Interrupted) -> None:
    assert interrupted.code == 130
    assert f"--resume {interrupted.run.name}" in interrupted.err
    assert "Traceback" not in interrupted.err
    assert measured(interrupted.folder) >= 1
    assert not Path(f"/proc/{interrupted.serve}").exists()


def test_a_resume_on_another_serve_is_refused(interrupted: Interrupted) -> None:
    before = lines(interrupted.run / "batches.jsonl")
    code, _, err = gate(interrupted.folder, "--resume", interrupted.run.name, "--serve-arg=--num-blocks=99")
    assert code == 2
    assert "cannot resume on another serve" in err
    assert lines(interrupted.run / "batches.jsonl") == before


@pytest.mark.slow
def test_a_first_run_that_is_interrupted_goes_on_with_the_baseline_alone(folder: Path) -> None:
    process = start(folder, "--baseline", "here")
    runs = folder / ".ds4bench" / "runs"
    wait_for(lambda: len(list(runs.glob("*/batches.jsonl"))) == 2, process, "second side")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    roles = {json.loads((run / "run.json").read_text())["target"]["role"]: run for run in runs.iterdir()}
    assert process.returncode == 130
    assert f"--resume {roles['baseline'].name}" in err
    kept = lines(roles["baseline"] / "batches.jsonl")
    code, document, err = gate(folder, "--baseline", "here", "--resume", roles["baseline"].name)
    assert code in (0, 1, 3, 4), err
    assert "no baseline" not in document["verdict"]["sentence"]
    assert document["run"] not in {run.name for run in roles.values()}  # the other half of the pair counts for nothing
    assert lines(roles["baseline"] / "batches.jsonl")[: len(kept)] == kept


def test_prompts_without_salt_make_the_run_invalid_and_name_the_cached_tokens(folder: Path) -> None:
    code, document, _ = gate(folder, "--set", "request.salt=false")
    assert (code, document["verdict"]["verdict"]) == (3, "INVALID")
    assert "512 of 540 tokens cached" in document["verdict"]["sentence"]


def test_attach_works_against_a_serve_started_by_hand(folder: Path, serve: str) -> None:
    code, document, err = gate(folder, "--target", "attach", "--url", serve)
    assert (code, document["verdict"]["verdict"]) == (4, "INCONCLUSIVE"), err
    assert "no baseline" in document["verdict"]["sentence"]
    assert document["fingerprint"]["model"] == "ds4-nano"
    assert [cell["requests"] for cell in document["cells"]] == [2, 4]
