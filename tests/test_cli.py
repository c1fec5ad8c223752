"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ds4bench.cli import main

Called = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[1]


def ds4bench(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Called:
    """Runs a command in this process, as its entry point does: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"DS4BENCH_HOME": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ds4bench", *args])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, out, err

    return call


def test_importing_the_cli_imports_nothing_heavy() -> None:
    heavy = (
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "pydantic",
        "httpx",
        "aiohttp",
        "yaml",
        "starlette",
        "msgspec",
        "lm_eval",
    )
    code = f"import ds4bench.cli, sys; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        [],
        *(["gate"], ["promote"], ["calibrate"], ["ci"], ["compare"], ["rescore"], ["import"], ["gates"], ["schema"]),
        *(["serve"], ["serve", "embedded"], ["serve", "vllm"], ["baseline"], ["baseline", "promote"], ["runs"]),
    ],
)
def test_every_command_explains_itself(command: list[str], called: Called) -> None:
    code, out, _ = called(*command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 4


def test_version(tmp_path: Path) -> None:
    assert ds4bench("--version", cwd=tmp_path).stdout.startswith("ds4bench 0.")


def test_gates_lists_name_profiles_and_purpose(tmp_path: Path) -> None:
    out = ds4bench("gates", cwd=tmp_path).stdout
    assert "long-context" in out
    assert "full, short, smoke" in out
    assert "first token" in out
    assert "promotion" in out  # the suites stand below


def test_schema_is_json(tmp_path: Path) -> None:
    assert "rules" in json.loads(ds4bench("schema", cwd=tmp_path).stdout)["properties"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["gate", "long-contxt"], "long-context"),
        (["gate", "long-context", "--profile", "smok"], "smoke"),
        (["gate", "long-context", "--set", "request.max_token=3"], "max_tokens"),
        (["gate", "long-context", "--set", "request.max_tokens=many"], "request.max_tokens"),
        (["gate", "long-context", "--target", "attach"], "--url"),
        (["gate", "long-context", "--target", "attach", "--url", "nowhere"], "http://127.0.0.1:8000"),
        (["gate", "long-context", "--target", "attach", "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["gate", "long-context", "--url", "http://127.0.0.1:9"], "--target attach"),
        (["gate", "long-context", "--baseline", "nobody"], "nobody"),
        (["gate", "long-context", "--resume", "20200101-000000-x"], "no run in"),
        (["gate", "gsm8k", "--data", "nowhere"], "nowhere: no such folder; --data wants one that holds train.jsonl"),
        (
            ["gate", "mt-bench", "--data", "nowhere"],
            "nowhere: cannot be read: No such file or directory; give a file of",
        ),
        (
            ["gate", "toolcall-15", "--data", "nowhere"],
            "a battery is a folder with battery.yaml, tools.yaml and tc-*.yaml",
        ),
        (
            ["gate", "stream-parity", "--data", "nowhere"],
            "nowhere: cannot be read: No such file or directory; give a YAML",
        ),
        (["gate", "long-context", "--data", "x"], "gate long-context reads no data; leave the option out"),
        (["gate", "broken.yaml"], "broken.yaml:2: not valid YAML"),
        (["gate", "nothing.yaml"], "nothing.yaml: no such gate file; give a path"),
        (["promote", "--suite", "smok"], "smoke; did you mean 'smoke'?"),
        (["promote", "--suite", "suite.yaml"], "suite.yaml:1: title: missing"),
        (["promote", "--suite", "smoke", "--baseline", "nobody"], "no baseline 'nobody'"),
        (["promote", "--suite", "wrong.yaml"], "suite wrong.yaml: --set x: needs the form"),
        (["ci", "--suite", "wrong.yaml"], "suite wrong.yaml: --set x: needs the form"),
        (["promote", "--resume", "20200101-000000-x"], "no suite run '20200101-000000-x'"),
        (["promote", "--suite", "smoke", "--data", "x"], "it needs the form GATE=PATH"),
        (["calibrate", "long-contxt"], "did you mean 'long-context'?"),
        (["calibrate", "long-context", "--profile", "smok"], "did you mean 'smoke'?"),
        (["calibrate", "long-context", "--baseline", "nobody"], "no baseline 'nobody' for gate long-context"),
        (["calibrate", "gsm8k"], "nothing to calibrate"),
        (["calibrate", "long-context", "--set", "repeats.count=1"], "give --repeats 2 or more"),
        (["calibrate", "long-context", "--from", "20200101-000000-x"], "no run in"),
        (["ci", "--gate", "long-context", "--profile", "smok"], "did you mean 'smoke'?"),
        (["ci"], "not a git repository"),
        (["compare", "20200101-000000-x", "20200101-000000-y"], "no run in"),
        (["rescore", "20200101-000000-x"], "no run in"),
        (["import", "nothing.json"], "nothing.json: cannot be read: No such file or directory; give a result file"),
        (["baseline", "diff", "nobody", "nobody"], "no baseline 'nobody'"),
        (["gate", "long-context", "--beside", "nobody"], "vllm-41834"),
        (["gate", "long-context", "--profile", "smoke", "--serve-arg=--threads=none"], "--threads"),
        (["runs", "show", "20200101-000000-x"], "no run in"),
        (["baseline", "show", "nobody"], "nobody"),
        (["baseline", "promote", "20200101-000000-x", "name"], "no run in"),
        (["baseline", "show", "folder.json"], "folder.json"),
        (["runs", "show", "./20200101-000000-x"], "no run in"),
        (["gate", "long-context", "--target", "attach", "--url", "http://[::1"], "its host is malformed"),
        (["gate", "long-context", "--target", "attach", "--url", "http://127.0.0.1:abc"], "no number from 1 to 65535"),
        (
            ["gate", "long-context", "--target", "attach", "--url", "http://127.0.0.1:99999"],
            "no number from 1 to 65535",
        ),
        (["gate", "long-context", "--target", "hosted-deepseek", "--url", "foo"], "'foo' is not an address"),
        (["gate", "long-context", "--dry-run", "--target", "attach", "--url", "ftp://x"], "is not an address"),
        (["gate", "long-context", "--dry-run", "--baseline", "nobody"], "no baseline 'nobody'"),
        (["gate", "long-context", "--set", "rules.\u00b2.margin=1"], "rules.\u00b2"),
        (["gate", "long-context", "--target", "vllm", "--model", "m", "--serve-profile", "bin.yaml"], "bin.yaml"),
        (["serve", "vllm", "m", "--profile", "place.yaml", "--dry-run"], "'{pythn}' has a place that is not known"),
        (["serve", "vllm", "m", "--profile", "typo.yaml", "--dry-run"], "typo.yaml:6: enviroment: unknown key"),
        (["ci", "--gate", "needle", "--gate", "needle"], "give each gate once"),
        (["ci", "--gate", ""], "give each gate once"),
        (["promote", "--suite", "smoke", "--junit", "nowhere/x.xml"], "--junit nowhere/x.xml: cannot be written"),
        (["import", "lm.json", "--gate", "nope"], "no gate 'nope'"),
        (["import", "lm.json", "--name", "vllm-41834"], "give another --name"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, called: Called, args: list[str], words: str
) -> None:
    (tmp_path / "broken.yaml").write_text("name: x\n  title: [unclosed\n")
    (tmp_path / "suite.yaml").write_text("name: suite\ngates: [needle]\n")
    (tmp_path / "wrong.yaml").write_text("name: wrong\ntitle: t\ngates: [{gate: needle, overrides: [x]}]\n")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00name")
    (tmp_path / "lm.json").write_text('{"results": {"a": {"x": 1}}}')
    profile = "name: mine\ntitle: t\nengine: vllm\nkind: launch\ncommand: ['{pythn}']\n"
    (tmp_path / "place.yaml").write_text(profile)
    (tmp_path / "typo.yaml").write_text(profile.replace("pythn", "python") + "enviroment: {}\n")
    code, _, err = called(*args)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("ds4bench: ")]
    assert len(lines) == 1, err
    assert lines[0] == err.strip().splitlines()[-1]
    assert words in lines[0]


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_never_ends_with_the_exit_code_of_a_fail(
    tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    """Python's own exit code for an exception is 1, which says FAIL."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path / "file"))
    before = ["--debug"] if debug else []
    code, _, err = called(*before, "import", str(ROOT / "tests" / "store" / "data" / "vllm-bench-0.32.json"))
    assert (code, "Traceback" in err) == (2, debug)
    assert "Not a directory" in err.splitlines()[-1]
    assert called(*before, "gate", "nope")[0] == 2

    def broken() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("ds4bench.commands.listing.show_gates", broken)
    code, _, err = called(*before, "gates")
    assert (code, "Traceback" in err) == (70, debug)
    assert err.splitlines()[-1].startswith("ds4bench: a defect of ds4bench, no verdict: RuntimeError: broken")


def test_a_secret_in_an_address_is_neither_shown_nor_kept(tmp_path: Path, called: Called) -> None:
    for address in (
        "http://u:secretpw99@127.0.0.1:9",
        "http://127.0.0.1:9/?k=secretpw99",
        "http://127.0.0.1:9/#secretpw99",
    ):
        for target in ("attach", "hosted-deepseek"):
            code, out, err = called("promote", "--suite", "smoke", "--target", target, "--url", address)
            assert code == 2
            assert "through the environment" in err
            assert "secretpw99" not in out + err
    assert not [path for path in (tmp_path / ".ds4bench").rglob("*") if path.is_file()]


def test_a_mistake_in_a_gate_file_names_file_and_line(tmp_path: Path) -> None:
    text = (ROOT / "gates" / "long-context.yaml").read_text().replace("max_tokens: 128", "max_tokens: lots")
    (tmp_path / "mine.yaml").write_text(text)
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "lots" in line)
    out = ds4bench("gate", "mine.yaml", cwd=tmp_path)
    assert out.returncode == 2
    assert f"mine.yaml:{number}" in out.stderr


def test_lists_are_helpful_when_there_is_nothing(tmp_path: Path) -> None:
    assert "no runs yet" in ds4bench("runs", "list", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--dryrun"], ["No such option: --dryrun", "--dry-run"]),
        (["--dry-run", "--enforce-eager"], ["No such option: --enforce-eager", "[-- ENGINE FLAGS]"]),
        (["--dry-run", "profile", "h200"], ["unexpected word: profile"]),
    ],
)
def test_serve_refuses_what_it_does_not_know(args: list[str], words: list[str], called: Called) -> None:
    code, out, err = called("serve", "vllm", "m", *args)
    assert code == 2
    assert "vllm.entrypoints" not in out
    assert all(word in " ".join(err.split()) for word in words)


def test_the_engines_own_flags_go_behind_two_dashes(called: Called) -> None:
    code, out, _ = called(
        "serve", "vllm", "m", "--profile", "h200", "--dry-run", "--", "--enforce-eager", "--seed", "3"
    )
    assert code == 0
    assert out.rstrip().endswith("--enforce-eager --seed 3")
