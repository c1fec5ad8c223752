"""The command line: what each command is given, and that nothing heavy is imported for its help."""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ds4_kernels import __version__, cli


def given(monkeypatch: pytest.MonkeyPatch, module: str, argv: list[str], code: int = 0) -> argparse.Namespace:
    """The arguments with which the command of ``argv`` calls ``module.main``."""
    calls: list[argparse.Namespace] = []

    def main(args: argparse.Namespace) -> int:
        calls.append(args)
        return code

    monkeypatch.setitem(sys.modules, module, SimpleNamespace(main=main))
    assert cli.main(argv) == code
    (args,) = calls
    return args


def test_compile_options(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "ds4_kernels.compile_gate.run"
    args = given(monkeypatch, module, ["compile"])
    assert (args.arch, args.op, args.subset, args.seed, args.json, args.no_cache) == (
        None,
        None,
        False,
        None,
        None,
        False,
    )
    assert args.jobs >= 1
    argv = "compile --arch sm_120 --arch sm_90 --op a --op b --subset --seed 4 --json f --jobs 3 --timeout 9 --no-cache"
    args = given(monkeypatch, module, argv.split(), code=1)
    assert (args.arch, args.op, args.subset, args.seed) == (["sm_120", "sm_90"], ["a", "b"], True, 4)
    assert (args.json, args.jobs, args.timeout, args.no_cache) == ("f", 3, 9, True)


def test_check_options(monkeypatch: pytest.MonkeyPatch) -> None:
    args = given(monkeypatch, "ds4_kernels.check", ["check"])
    assert (args.op, args.device, args.seed, args.json, args.large) == (None, "cuda", 0, None, False)
    argv = "check --op a --op b --device cpu --seed 5 --json f --large".split()
    args = given(monkeypatch, "ds4_kernels.check", argv, code=1)
    assert (args.op, args.device, args.seed, args.json, args.large) == (["a", "b"], "cpu", 5, "f", True)


def test_bench_options(monkeypatch: pytest.MonkeyPatch) -> None:
    args = given(monkeypatch, "ds4_kernels.bench", ["bench"])
    assert (args.op, args.peer, args.seed, args.json) == (None, None, 0, None)
    args = given(monkeypatch, "ds4_kernels.bench", "bench --op a --peer vllm --seed 2 --json f".split())
    assert (args.op, args.peer, args.seed, args.json) == (["a"], "vllm", 2, "f")


def test_doctor_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, "ds4_kernels.doctor", ["doctor"]).json is False
    assert given(monkeypatch, "ds4_kernels.doctor", ["doctor", "--json"]).json is True


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["compile", "--arch", "sm_80"],
        ["compile", "--jobs", "0"],
        ["compile", "--jobs", "two"],
        ["check", "--device", "tpu"],
        ["bench", "--peer", "nobody"],
    ],
)
def test_wrong_options_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == 2
    assert "usage: ds4-kernels" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    for name in ("compile", "doctor", "check", "bench"):
        assert f"ds4-kernels {name}" in out


@pytest.mark.parametrize("command", ["compile", "doctor", "check", "bench"])
def test_help_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"examples:\n  ds4-kernels {command}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"ds4-kernels {__version__}\n"


def test_help_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys\nfrom ds4_kernels import cli\n"
        "try:\n    cli.main(['compile', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'triton', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
