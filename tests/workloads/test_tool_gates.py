"""toolcall-15 and stream-parity from command to verdict, against a real serve whose model follows a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ds4bench.cli import app
from ds4bench.errors import StoreError, WorkloadError
from ds4bench.spec.load import load_gate
from ds4bench.workloads.toolcall15.scenario import load_battery

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).parent / "toolcall15" / "scripted_model.py"
pytestmark = pytest.mark.integration
DSML = "｜DSML｜"
THINKING, ANSWERING = "<｜Assistant｜><think>", "<｜Assistant｜></think>"
YEAR = load_battery().files["TC-10"].user["en"]


def call(name: str, argument: str, value: str) -> str:
    inside = f'<{DSML}parameter name="{argument}" string="true">{value}</{DSML}parameter>'
    invoke = f'<{DSML}invoke name="{name}">\n{inside}\n</{DSML}invoke>'
    return f"<{DSML}tool_calls>\n{invoke}\n</{DSML}tool_calls>"


OSLO = "I look.\n\n" + call("get_weather", "city", "Oslo")
BERLIN = call("get_weather", "location", "Berlin")
SCRIPT = [
    (["Berlin", "Overcast", THINKING], "Cold.</think>8 degrees."),
    (["Berlin", "Overcast", ANSWERING], "8 degrees."),
    (["weather", "Berlin", THINKING], f"Berlin.</think>{BERLIN}"),
    (["weather", "Berlin", ANSWERING], BERLIN),
    ([YEAR, THINKING], "Long ago.</think>In 1945."),
    ([YEAR, ANSWERING], "In 1945."),
    (["weather in Oslo", THINKING], f"1 < 2.</think>{OSLO}"),
    (["weather in Oslo", ANSWERING], OSLO),
    ([THINKING], "Hm, 1 < 2 </b>.</think>x <- 1; y <"),
    ([ANSWERING], "x <- 1; y <"),
]
HEALTHY = ""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A serve for each fault, started side by side."""
    folder = tmp_path_factory.mktemp("tool-gates")
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    env = {**os.environ, "TOOLCALL_SCRIPT": str(folder / "script.json")}
    started: dict[str, subprocess.Popen[bytes]] = {}
    for fault in (HEALTHY, "dsml-split-leak", "thinking-ignored", "reasoning-field-renamed"):
        command = [sys.executable, str(MODEL), "--num-blocks", "16", "--threads", "1", "--no-prefix-caching"]
        command += ["--weights", "random", "--port", "0", "--die-with-parent", *(["--fault", fault] if fault else [])]
        with (folder / f"log{fault}").open("wb") as log:
            command += ["--port-file", str(folder / f"port{fault}")]
            started[fault] = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    deadline = time.monotonic() + 90
    for fault, process in started.items():
        while not (folder / f"port{fault}").exists():
            assert process.poll() is None, (folder / f"log{fault}").read_text()
            assert time.monotonic() < deadline, "a serve did not start"
            time.sleep(0.05)
    yield {fault: f"http://127.0.0.1:{(folder / f'port{fault}').read_text().strip()}" for fault in started}
    for process in started.values():
        process.terminate()
    for process in started.values():
        process.wait(20)


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS4BENCH_HOME", str(ROOT))
        patch.setenv("DS4BENCH_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def healthy(home: None, urls: dict[str, str]) -> dict[str, Any]:
    """What toolcall-15 says of the serve without a fault."""
    return toolcall(urls[HEALTHY])


def command(*args: str) -> Result:
    return CliRunner().invoke(app, [*args, "--json"])


def gate(name: str, url: str, *changes: str) -> dict[str, Any]:
    sets = [f"--set={change}" for change in ("request.max_tokens=256", *changes)]
    result = command("gate", name, "--profile", "smoke", "--target", "attach", "--url", url, *sets)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def toolcall(url: str, threshold: float = 0.1) -> dict[str, Any]:
    rule = {"name": "score", "kind": "score", "score": "v1-jasl", "threshold": threshold, "random_weights": "judge"}
    return gate("toolcall-15", url, "matrix.concurrency=1", "options.scenarios=null", f"rules={json.dumps([rule])}")


def shipped(url: str, *changes: str) -> dict[str, Any]:
    """toolcall-15 with the rules of its file; the scripted model counts as one of random weights, so it is said to judge."""
    sets = ("matrix.concurrency=1", "options.scenarios=null", "rules.clean.random_weights=judge", *changes)
    return gate("toolcall-15", url, *sets)


def points(document: dict[str, Any]) -> list[dict[str, float]]:
    return [cell["scores"] for cell in document["cells"]]


def test_points_are_those_of_the_conversations_in_every_mode_and_by_both_rule_sets(
    urls: dict[str, str], healthy: dict[str, Any]
) -> None:
    found = healthy
    assert found["verdict"]["verdict"] == "PASS", found["verdict"]
    for scores in points(found):
        full = {name for name, value in scores.items() if name.startswith("tc-") and value == 1}
        assert full == {"tc-01", "tc-10"}
        assert scores["category-a"] == pytest.approx(1 / 3)
        assert scores["points"] == scores["v1-jasl"] == pytest.approx(2 / 15)
    assert toolcall(urls[HEALTHY], 0.5)["verdict"]["verdict"] == "FAIL"

    again = json.loads(command("rescore", found["run"]).stdout)
    assert (again["rules"], again["summary"]["total"]["percent"]) == ("v1-jasl", 13)
    assert [check["status"] for check in again["checks"]] == ["ok", "ok", "not_applicable"]
    other = json.loads(command("rescore", found["run"], "--rules", "v1-original").stdout)
    assert [score["rules"] for score in other["scores"]] == ["v1-original"] * 30
    assert other["summary"]["total"]["percent"] == 13  # the mean of 33, 0, 0, 33 and 0
    shown = CliRunner().invoke(app, ["rescore", found["run"]]).stdout
    assert "ToolCall-15 13 %" in shown
    assert all(name in shown for name in ("A: Tool selection", "TC-02", "TC-15"))
    assert "TC-10" not in shown


def test_reasoning_under_its_other_name_gives_the_same_score(urls: dict[str, str], healthy: dict[str, Any]) -> None:
    renamed = toolcall(urls["reasoning-field-renamed"])
    assert renamed["verdict"]["verdict"] == "PASS"
    assert points(renamed) == points(healthy)


def test_thinking_that_is_ignored_makes_both_gates_invalid(urls: dict[str, str]) -> None:
    for found in (toolcall(urls["thinking-ignored"]), parity(urls["thinking-ignored"])):
        assert found["verdict"]["verdict"] == "INVALID"
        assert "thinking was asked for" in found["verdict"]["sentence"]


@pytest.mark.parametrize("profile", ["smoke", "full"])
def test_a_marker_that_leaks_fails_toolcall_15_by_its_shipped_rule_however_seldom_a_tool_is_called(
    urls: dict[str, str], profile: str
) -> None:
    least = {rule.name: rule.threshold for rule in load_gate("toolcall-15", profile=profile).spec.rules
             if rule.kind == "score"}["clean"]  # fmt: skip
    found = shipped(urls["dsml-split-leak"], f"rules.clean.threshold={least}")
    assert found["verdict"]["verdict"] == "FAIL"
    [clean] = [rule for rule in found["verdict"]["rules"] if rule["rule"] == "clean"]
    assert clean["verdict"] == "FAIL"
    assert "clean 0.0 % over 2 answers" in clean["sentence"]
    assert [scores["clean"] for scores in points(found)] == [pytest.approx(14 / 15)] * 2  # only TC-01 calls a tool here
    assert [scores["tc-01"] for scores in points(found)] == [1.0, 1.0]


def test_a_healthy_parser_passes_the_shipped_rule(urls: dict[str, str]) -> None:
    rules = shipped(urls[HEALTHY])["verdict"]["rules"]
    assert {rule["rule"]: rule["verdict"] for rule in rules}["clean"] == "PASS"


def parity(url: str) -> dict[str, Any]:
    return gate("stream-parity", url, "rules.clean.random_weights=judge", "options.prompts=[one-call, angle-brackets]")


@pytest.mark.parametrize("fault", [HEALTHY, "reasoning-field-renamed"])
def test_streamed_and_whole_replies_of_a_healthy_parser_are_the_same(urls: dict[str, str], fault: str) -> None:
    found = parity(urls[fault])
    assert found["verdict"]["verdict"] == "PASS", found["verdict"]
    assert points(found) == [{"parity": 1.0, "clean": 1.0}] * 2
    assert [cell["requests"] for cell in found["cells"]] == [4, 4]


def test_a_marker_that_leaks_out_of_a_stream_fails_parity_and_shows_as_markup(urls: dict[str, str]) -> None:
    found = parity(urls["dsml-split-leak"])
    assert found["verdict"]["verdict"] == "FAIL"
    assert {rule["rule"]: rule["verdict"] for rule in found["verdict"]["rules"]} == {
        "parity": "FAIL", "clean": "FAIL", "failures": "PASS",
    }  # fmt: skip
    assert points(found) == [{"parity": 0.5, "clean": 0.5}] * 2  # the prompt without tools is not parsed
    assert [cell["requests"] for cell in found["cells"]] == [6, 6]  # a pair that differs was asked again


def test_a_run_without_conversations_cannot_be_rescored(urls: dict[str, str]) -> None:
    found = parity(urls[HEALTHY])
    refused = command("rescore", found["run"])
    assert isinstance(refused.exception, StoreError)
    assert "of gate stream-parity holds no tool-call conversations" in str(refused.exception)
    unknown = command("rescore", found["run"], "--rules", "v2")
    assert isinstance(unknown.exception, WorkloadError)
    assert "known: v1-original, v1-jasl" in str(unknown.exception)
