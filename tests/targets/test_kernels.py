"""``--kernels``: what a serve is told, and what is read of what its processes tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ds4bench.core import Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets.choice import Serving, check_kernels, launch_of, watched
from ds4bench.targets.kernels import KernelWatch, check_plugin, loading_fault, parse_choice, told_of_kernels

ROOT = Path(__file__).resolve().parents[2]
TOLD = Fingerprint(engine="vllm", model="m")
REAL_REPORT = """
import sys
from pathlib import Path
from ds4_kernels import env
from ds4_kernels.engines.report import HookState, Report
report = Report("vllm", "0.33.0", env.read())
report.table = "0.33.0"
state = report.add(HookState("mhc_post@f", "mhc_post", "mhc", "vllm.x:f", "installed"))
state.calls, state.declined = 3, {"page size 128": 1}
report.write()
"""


@pytest.mark.parametrize(
    ("text", "engine", "wanted"),
    [
        ("engine", "vllm", {"DS4_KERNELS": "off"}),
        ("bundled", "sglang", {"DS4_KERNELS": "force", "DS4_KERNELS_SHADOW": "0"}),
        ("bundled", "embedded", {"DS4_KERNELS": "auto"}),
        (
            "ops=attn, indexer",
            "vllm",
            {"DS4_KERNELS": "force", "DS4_KERNELS_SHADOW": "0", "DS4_KERNELS_OPS": "attn,indexer"},
        ),
        ("ops=mhc_post", "embedded", {"DS4_KERNELS": "auto", "DS4_KERNELS_OPS": "mhc_post"}),
    ],
)
def test_a_choice_becomes_variables(text: str, engine: str, wanted: dict[str, str]) -> None:
    assert parse_choice(text).environment(engine) == wanted


@pytest.mark.parametrize("text", ["", "all", "ops=", "ops=a,,b", "ours"])
def test_a_choice_that_is_none_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(TargetError, match="bundled, engine, ops=NAME"):
        parse_choice(text)


def test_a_selection_of_the_shell_cannot_narrow_all_of_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS_OPS", "moe")
    with pytest.raises(TargetError, match="unset it"):
        parse_choice("bundled").environment("vllm")
    assert parse_choice("ops=attn").environment("vllm")["DS4_KERNELS_OPS"] == "attn"


def test_what_the_plugin_writes_is_what_is_read(tmp_path: Path) -> None:
    """The real report of ds4-kernels, so that the two cannot part."""
    watch = KernelWatch(parse_choice("bundled"), tmp_path / "kernels")
    environment = {**os.environ, **watch.environment("vllm"), "DS4_KERNELS_SABOTAGE": "mhc_post:1.5"}
    subprocess.run([sys.executable, "-c", REAL_REPORT], env=environment, check=True)
    told = told_of_kernels(TOLD, watch)
    assert told.kernels is not None
    ((process,),) = told.kernels.launches
    assert (process.mode, process.ops, process.version) == ("force", None, "0.33.0")
    (hook,) = process.hooks
    assert (hook.op, hook.state, hook.calls, hook.declined) == ("mhc_post", "installed", 3, {"page size 128": 1})
    assert told.faults == ["kernel:mhc_post:1.5"]  # a run on a spoilt kernel can be nobody's baseline
    assert msgspec.json.decode(msgspec.json.encode(told), type=Fingerprint) == told


def test_every_launch_tells_into_a_folder_of_its_own(tmp_path: Path) -> None:
    watch = KernelWatch(parse_choice("bundled"), tmp_path / "kernels")
    folders = [watch.environment("vllm")["DS4_KERNELS_REPORT"] for _ in range(11)]
    assert len(set(folders)) == 11
    assert len(watch.use(TOLD).launches) == 11


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    watch = KernelWatch(parse_choice("bundled"), tmp_path / "kernels")
    file = Path(watch.environment("vllm")["DS4_KERNELS_REPORT"]) / "ds4-kernels-vllm-1.json"
    file.write_text('{"schema": "ds4-kernels.report/1", "pid": "x"}')
    with pytest.raises(TargetError, match=r"ds4-kernels-vllm-1\.json"):
        watch.use(TOLD)
    file.write_text('{"schema": "ds4-kernels.report/9"}')
    with pytest.raises(TargetError, match="report/9"):
        watch.use(TOLD)


HEAD = {"schema": "ds4-kernels.report/1", "pid": 1, "process": "p", "engine": "vllm", "mode": "force"}
HOOK = {"hook": "mhc_post@f", "op": "mhc_post", "group": "mhc", "state": "installed"}


def fault(folder: Path, choice: str, *reports: dict[str, object], engine: str = "vllm") -> str | None:
    """What is known against a serve of this choice when the first token has come, whose processes told this."""
    watch = KernelWatch(parse_choice(choice), folder / "kernels")
    told = Path(watch.environment(engine)["DS4_KERNELS_REPORT"])
    for number, report in enumerate(reports):
        (told / f"ds4-kernels-vllm-{number}.json").write_bytes(msgspec.json.encode({**HEAD, **report}))
    return loading_fault(watch.use(TOLD), "ds4bench-embedded" if engine == "embedded" else engine)


@pytest.mark.parametrize(
    ("choice", "report", "why"),
    [
        ("bundled", {"note": "no table for vllm 0.32.0 (known: 0.25.0)"}, "no table for vllm 0.32.0 (known: 0.25.0)"),
        ("bundled", {"hooks": [{**HOOK, "state": "pending"}]}, "imported none of the modules"),
        ("bundled", {"hooks": [{**HOOK, "state": "skipped", "reason": "signature (a)"}]}, "signature (a)"),
        ("ops=attn,mhc", {"hooks": [HOOK]}, "no hook for attn in this vllm"),
        ("bundled", {"hooks": [HOOK, {**HOOK, "state": "failed", "reason": "boom"}]}, "was failed (boom)"),
        ("bundled", {"hooks": [HOOK], "shadow": True}, "DS4_KERNELS_SHADOW=1 reached the serve"),
    ],
)
def test_a_serve_on_other_kernels_is_known_before_it_is_measured(
    tmp_path: Path, choice: str, report: dict[str, object], why: str
) -> None:
    said = fault(tmp_path, choice, report)
    assert said is not None
    assert said.startswith(f"--kernels {choice}: ")
    assert why in said
    assert "\n" not in said


def test_a_serve_none_of_whose_processes_told_is_known_before_it_is_measured(tmp_path: Path) -> None:
    said = fault(tmp_path, "bundled") or ""
    assert "no process of vllm wrote a report" in said
    assert "VLLM_PLUGINS" in said
    assert "SGLANG_PLUGINS" in (fault(tmp_path, "bundled", engine="sglang") or "")


def test_a_serve_that_may_be_on_the_kernels_asked_for_is_measured(tmp_path: Path) -> None:
    unselected = {**HOOK, "op": "route", "group": "moe", "state": "skipped", "reason": "not in DS4_KERNELS_OPS"}
    assert fault(tmp_path, "ops=mhc", {"hooks": [HOOK, unselected]}) is None
    assert fault(tmp_path, "bundled", {}, {"hooks": [HOOK]}) is None  # a helper beside a worker
    assert fault(tmp_path, "engine") is None
    assert fault(tmp_path, "bundled", engine="embedded") is None  # it has no plugin; its op table tells


@pytest.mark.parametrize("text", ["ops=atn", "ops=attn,nonsense"])
def test_an_op_that_there_is_not_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(
        TargetError, match=r"no op or group named '(atn|nonsense)'; groups: attn, cache,.*ops: .*mhc_post"
    ):
        Serving(kernels=text).check("vllm", "m")


def test_names_of_ops_are_checked_without_loading_torch() -> None:
    code = "import sys; from ds4bench.targets.kernels import parse_choice; parse_choice('ops=attn'); "
    code += "assert 'torch' not in sys.modules and 'ds4_kernels.table' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_selection_of_the_shell_is_refused_before_anything_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS_OPS", "moe")
    with pytest.raises(TargetError, match="unset it"):
        check_kernels("embedded", Serving(kernels="bundled"))
    check_kernels("embedded", Serving(kernels="ops=attn"))


def test_an_environment_without_the_plugin_is_refused_before_the_launch(tmp_path: Path) -> None:
    python = tmp_path / "python"  # -S: nothing that is installed here is seen there
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(TargetError, match=r"has no plugin ds4_kernels for vllm.*pip install --no-deps"):
        check_plugin(str(python), "vllm", parse_choice("bundled"))
    check_plugin(str(python), "vllm", parse_choice("engine"))
    with pytest.raises(TargetError, match="does not work"):
        check_plugin("/bin/false", "vllm", parse_choice("bundled"))


def test_the_launch_shows_the_variables_and_runs_with_a_report_folder(tmp_path: Path) -> None:
    serving = Serving(profile="cpu", kernels="engine", environment={"OTHER": "1"})
    launch = launch_of("vllm", "some/model", (), serving)
    assert launch.shell_text().count("DS4_KERNELS=off ") == 1
    assert "DS4_KERNELS_REPORT" not in launch.environment
    with_report, watch = watched("vllm", serving, tmp_path / "serve.log")
    assert watch is not None
    environment = launch_of("vllm", "some/model", (), with_report).environment
    assert Path(environment["DS4_KERNELS_REPORT"]).parent == tmp_path / "kernels"
    assert environment["OTHER"] == "1"
    assert watched("vllm", Serving(), tmp_path / "serve.log") == (Serving(), None)


@pytest.mark.parametrize("target", ["attach", "hosted-deepseek"])
def test_kernels_of_a_serve_that_is_not_ours_cannot_be_chosen(target: str) -> None:
    with pytest.raises(TargetError, match="--kernels belongs to a serve that ds4bench launches"):
        Serving(kernels="bundled").check(target, "m")
