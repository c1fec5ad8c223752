"""What can go wrong with a real serve, through the whole tool: one clear line, the exit code, nothing left behind.

The hosted API's refusals (key missing, key wrong, no balance) are in test_hosted.py, options that contradict each other and
a death in the middle of a gate in test_engine.py, an engine without the kernel plugin in test_kernels.py.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from ds4bench.errors import TargetError
from ds4bench.targets.preflight import engine_version
from tests.targets.conftest import Serve
from tests.targets.fake_serve import GATE, PROFILE, ds4bench, fake_processes, gone_soon

pytestmark = pytest.mark.integration


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(GATE)
    path = tmp_path / "fake.yaml"
    path.write_text(PROFILE + f"environment: {{WORKER_FILE: '{tmp_path / 'workers'}'}}\n")
    return path


def gate(folder: Path, *args: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the small gate."""
    process = ds4bench(folder, "gate", "small.yaml", "--json", *args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def refused(folder: Path, *args: str) -> str:
    """The one line of a gate that could not begin."""
    code, out, err = gate(folder, *args)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("ds4bench: ")]
    assert line == err.strip().splitlines()[-1]
    return line


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("unknown-model", "unknown model: give a local folder with config.json, or an id that the engine can download"),
        ("out-of-memory", "out of GPU memory: use a smaller --max-model-len or --max-num-seqs, or free the GPU"),
        pytest.param(
            "odd-failure", "ended with exit code 1; ValueError: No common block size for 16", marks=pytest.mark.slow
        ),
        ("first-token-kills", "ended with exit code 9; RuntimeError: the first request broke the engine"),
    ],
)
def test_an_engine_that_dies_while_it_loads(profile: Path, tmp_path: Path, model: str, words: str) -> None:
    line = refused(tmp_path, "--target", "vllm", "--model", model, "--serve-profile", str(profile))
    assert words in line
    assert fake_processes(tmp_path) == []


def test_an_engine_that_never_gets_ready(profile: Path, tmp_path: Path) -> None:
    profile.write_text(profile.read_text().replace("ready_deadline_s: 20", "ready_deadline_s: 1.5"))
    line = refused(tmp_path, "--target", "vllm", "--model", "hangs", "--serve-profile", str(profile))
    assert "is not ready after 1.5 s: no token came back" in line
    assert fake_processes(tmp_path) == []


def test_an_engine_out_of_memory_in_a_gate_makes_it_invalid_and_its_workers_are_ended(
    profile: Path, tmp_path: Path
) -> None:
    code, out, err = gate(tmp_path, "--target", "vllm", "--model", "memory-in-gate", "--serve-profile", str(profile))
    assert code == 3, err
    verdict = json.loads(out)["verdict"]
    assert verdict["verdict"] == "INVALID"
    assert "ended with exit code 1; out of GPU memory" in verdict["sentence"]
    assert gone_soon(*(int(pid) for pid in (tmp_path / "workers").read_text().split()))
    assert fake_processes(tmp_path) == []


def test_a_port_that_somebody_listens_on_is_left_to_him(profile: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = str(owner.getsockname()[1])
        serve = ["--target", "vllm", "--model", "healthy", "--serve-profile", str(profile), "--port", port]
        assert f"port {port} is in use on 127.0.0.1" in refused(tmp_path, *serve)
        assert owner.fileno() >= 0
    assert fake_processes(tmp_path) == []


def test_an_environment_whose_python_is_broken_is_named_with_its_own_words(profile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(
        "#!/bin/sh\necho 'error while loading shared libraries: libpython3.12.so' >&2\nexit 127\n"
    )
    (folder / "python").chmod(0o755)
    profile.write_text(profile.read_text() + "module: vllm\n")
    serve = [
        "--target",
        "vllm",
        "--model",
        "m",
        "--serve-profile",
        str(profile),
        "--engine-python",
        str(tmp_path / "venv"),
    ]
    line = refused(tmp_path, *serve)
    assert f"--engine-python {folder / 'python'}: this python does not work" in line
    assert "libpython3.12.so" in line


def test_an_environment_without_the_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no_such_engine is not installed for .*; give the engine's own with"):
        engine_version(sys.executable, "no_such_engine")


@pytest.mark.parametrize(
    ("key", "words"), [(None, "export DS4BENCH_API_KEY"), ("sk-wrong-0123456789", "DS4BENCH_API_KEY is refused")]
)
def test_an_attached_serve_that_wants_another_key(
    profile: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, key: str | None, words: str
) -> None:
    monkeypatch.delenv("DS4BENCH_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("DS4BENCH_API_KEY", key)

    def unauthorised(*_: object) -> JSONResponse:
        return JSONResponse({"error": {"message": "Unauthorized"}}, status_code=401)

    url = serve({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": unauthorised})
    line = refused(tmp_path, "--target", "attach", "--url", url)
    assert "401" in line
    assert words in line
    assert key is None or key not in line


@pytest.mark.parametrize(
    ("status", "words"), [(402, "HTTP 402: no balance left"), (429, "HTTP 429: too many requests")]
)
def test_an_attached_serve_without_quota_gives_its_own_reason(
    profile: Path, tmp_path: Path, serve: Serve, status: int, words: str
) -> None:
    reason = words.partition(": ")[2]

    def spent(*_: object) -> JSONResponse:
        return JSONResponse({"error": {"message": reason}}, status_code=status)

    url = serve({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": spent})
    assert words in refused(tmp_path, "--target", "attach", "--url", url)
