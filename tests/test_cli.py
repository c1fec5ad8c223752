"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def ds4bench(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "COLUMNS": "200", "TERM": "dumb"}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


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
        ["gate"],
        ["gates"],
        ["serve"],
        ["serve", "embedded"],
        ["baseline"],
        ["baseline", "promote"],
        ["runs"],
        ["schema"],
    ],
)
def test_every_command_explains_itself(tmp_path: Path, command: list[str]) -> None:
    out = ds4bench(*command, "--help", cwd=tmp_path)
    assert out.returncode == 0
    assert len(out.stdout.splitlines()) > 4


def test_version(tmp_path: Path) -> None:
    assert ds4bench("--version", cwd=tmp_path).stdout.startswith("ds4bench 0.")


def test_gates_lists_name_profiles_and_purpose(tmp_path: Path) -> None:
    out = ds4bench("gates", cwd=tmp_path).stdout
    assert "long-context" in out
    assert "full, short, smoke" in out
    assert "first token" in out


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
        (["gate", "long-context", "--beside", "nobody"], "vllm-41834"),
        (["gate", "long-context", "--profile", "smoke", "--serve-arg=--threads=none"], "--threads"),
        (["runs", "show", "20200101-000000-x"], "no run in"),
        (["baseline", "show", "nobody"], "nobody"),
        (["baseline", "promote", "20200101-000000-x", "name"], "no run in"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(tmp_path: Path, args: list[str], words: str) -> None:
    out = ds4bench(*args, cwd=tmp_path)
    assert out.returncode == 2, out.stderr
    assert "Traceback" not in out.stderr
    line = out.stderr.strip().splitlines()[-1]
    assert line.startswith("ds4bench: ")
    assert words in line


def test_a_mistake_in_a_gate_file_names_file_and_line(tmp_path: Path) -> None:
    text = (ROOT / "gates" / "long-context.yaml").read_text().replace("max_tokens: 128", "max_tokens: lots")
    (tmp_path / "mine.yaml").write_text(text)
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "lots" in line)
    out = ds4bench("gate", "mine.yaml", cwd=tmp_path)
    assert out.returncode == 2
    assert f"mine.yaml:{number}" in out.stderr


def test_lists_are_helpful_when_there_is_nothing(tmp_path: Path) -> None:
    assert "no runs yet" in ds4bench("runs", "list", cwd=tmp_path).stdout
