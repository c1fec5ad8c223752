"""``doctor --engine-python`` against real interpreters whose engine is a few source files with a version."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ds4_kernels import cli
from ds4_kernels.engine_doctor import _service
from ds4_kernels.engines.hook import Hook
from ds4_kernels.engines.vllm import table

KNOWN = "0.33.0"


def make_engine(folder: Path, version: str, hooks: list[Hook], *, plugin: bool = False) -> Path:
    """A ``vllm`` of this version with the functions of these hooks, and an environment that finds it."""
    for hook in hooks:
        module, _, path = hook.target.partition(":")
        file = folder.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        *outer, last = path.split(".")
        stars = [f"*{n}" if n == "args" else f"**{n}" if n == "kwargs" else n for n in hook.parameters]
        indent = "    " * len(outer)
        lines = [f"{'    ' * depth}class {name}:" for depth, name in enumerate(outer)]
        lines += [f"{indent}def {last}({', '.join(stars)}):", f"{indent}    pass", ""]
        file.write_text((file.read_text() if file.exists() else "") + "\n".join(lines))
    (folder / "vllm").mkdir(exist_ok=True)
    (folder / "vllm" / "__init__.py").write_text("raise RuntimeError('the engine was imported')\n")
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    if plugin:
        info = folder / "ds4_kernels-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ds4-kernels\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(
            "[vllm.general_plugins]\nds4_kernels = ds4_kernels.engines.vllm:register\n"
        )
    return folder


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run it on this interpreter with folders on its path; (exit code, stdout, stderr)."""

    def run(*argv: str, path: list[Path] | None = None) -> tuple[int, str, str]:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path or [])))
        code = cli.main(["doctor", "--engine-python", *argv])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


KERNELS = Path(__file__).resolve().parents[1]


def functions() -> list[Hook]:
    """Hooks of plain functions whose names are parameters: what a few lines of source can stand for."""
    plain = [hook for hook in table()[KNOWN] if "args" not in hook.parameters]
    return list({hook.target: hook for hook in plain}.values())


def test_hooks_that_fit_are_listed_and_the_others_with_their_reason(doctor, tmp_path: Path) -> None:
    fits, other, missing = functions()[:3]
    changed = Hook(other.op, other.target, (*other.parameters, "brand_new"), other.factory)
    folder = make_engine(tmp_path, KNOWN, [fits, changed], plugin=True)
    code, out, _ = doctor(sys.executable, "--json", path=[folder, KERNELS])
    engine = json.loads(out)["engines"][0]
    problems = {finding["target"]: finding["problem"] for finding in engine["findings"]}
    assert (code, engine["version"], engine["has_plugin"]) == (0, KNOWN, True)
    assert problems[fits.target] == ""
    assert "brand_new" in problems[other.target]
    assert problems[missing.target]
    assert engine["loaded"]["armed"] == engine["loaded"]["hooks"] > 0  # the plugin itself was loaded there
    assert len(problems) == len({hook.target for hook in table()[KNOWN]})


def test_the_mode_in_service_is_told_beside_what_would_be_installed(
    doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hooks are armed here whatever the mode; whether they do anything, the mode and the device decide."""
    folder = make_engine(tmp_path, KNOWN, functions()[:1], plugin=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("DS4_KERNELS", raising=False)
    _, out, _ = doctor(sys.executable, path=[folder, KERNELS])
    assert "in service: DS4_KERNELS is not set, which means auto: every op stays the engine's here (no CUDA GPU" in out
    monkeypatch.setenv("DS4_KERNELS", "off")
    _, out, _ = doctor(sys.executable, path=[folder, KERNELS])
    assert "in service: DS4_KERNELS=off: every op stays the engine's here (DS4_KERNELS=off)" in out


@pytest.mark.parametrize(
    ("mode", "gpus", "words"),
    [
        (
            "",
            [[9, 0]],
            "auto: every op stays the engine's here (DS4_KERNELS=auto replaces nothing on sm_90 (SM12x only;",
        ),
        ("force", [[9, 0]], "DS4_KERNELS=force: replaces ops here"),
        ("", [[12, 0], [12, 0]], "auto: replaces ops here"),
        ("auto", [[12, 0], [9, 0]], "replaces ops here, but DS4_KERNELS=auto replaces nothing on sm_90"),
        ("reference", [], "DS4_KERNELS=reference: replaces ops here"),
        ("fast", [[12, 0]], "nothing is replaced: DS4_KERNELS is 'fast'"),
    ],
)
def test_what_a_mode_comes_to_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, mode: str, gpus: list[list[int]], words: str
) -> None:
    monkeypatch.setenv("DS4_KERNELS", mode)
    assert words in _service(gpus)
    assert not _service(None) or mode == "fast"  # no torch there: nothing is known


def test_an_unknown_version_steps_back_with_one_line(doctor, tmp_path: Path) -> None:
    folder = make_engine(tmp_path, "0.32.0", [], plugin=True)
    code, out, _ = doctor(sys.executable, path=[folder, KERNELS])
    assert code == 0
    assert "no table for vllm 0.32.0 (known: 0.25.0, 0.33.0); nothing is replaced" in out
    assert "no hook would be installed" in out


def test_an_environment_without_the_plugin_is_told_how_to_get_it(doctor, tmp_path: Path) -> None:
    folder = make_engine(tmp_path, KNOWN, functions()[:1])
    python = tmp_path / "bin" / "python"  # an environment's folder; -S: nothing that is installed here is seen there
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    code, out, _ = doctor(str(tmp_path), path=[folder])
    assert code == 0
    assert "not installed there" in out
    assert "pip install --no-deps ds4-kernels" in out
    assert f"1 of {len(table()[KNOWN])} hooks would be installed" in out


@pytest.mark.parametrize("python", ["/no/such/python", "."])
def test_a_path_that_is_no_python_is_one_line(doctor, python: str) -> None:
    code, out, err = doctor(python)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_environment_without_an_engine_is_one_line(doctor) -> None:
    code, _, err = doctor(sys.executable, path=[KERNELS])
    assert (code, err.count("\n")) == (2, 1)
    assert "has neither vllm nor sglang" in err
