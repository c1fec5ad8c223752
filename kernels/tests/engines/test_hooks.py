"""Hooks in a package that is really imported: when, where, and what happens when something does not fit."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ds4_kernels import ops
from ds4_kernels.engines.hook import Hook, decline
from ds4_kernels.engines.hooks import install

OPS = """
import torch

def post(x, out):
    out.copy_(x * 2)
    return out

class Layer:
    def forward(self, x, *, scale=1.0):
        return x * scale
"""
USER = """
from fakeengine.ops import post as apply

def run(x):
    import torch
    return apply(x, out=torch.empty_like(x))
"""
X = torch.tensor([[1.0, 2.0]])


def triple(original: Callable[..., Any]) -> Callable[..., Any]:
    def post(x: torch.Tensor, out: torch.Tensor) -> Any:
        if x.shape[0] > 4:
            return decline(f"{x.shape[0]} rows")
        return out.copy_(x * 3)

    return post


def hook(**changes: Any) -> Hook:
    given: dict[str, Any] = {
        "op": "mhc_post", "target": "fakeengine.ops:post", "parameters": ("x", "out"), "factory": triple,
        "writes": ("out",),
    }  # fmt: skip
    return Hook(**(given | changes))


def plug(monkeypatch: pytest.MonkeyPatch, *hooks: Hook, mode: str = "reference", **settings: str) -> Any:
    monkeypatch.setenv("DS4_KERNELS", mode)
    for name, value in settings.items():
        monkeypatch.setenv(f"DS4_KERNELS_{name}", value)
    return install("fakeengine", {"1.0": hooks or (hook(),)}, version="1.0")


def test_a_module_imported_later_is_patched_before_its_importer_sees_it(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch)
    assert report.hooks[0].state == "pending"
    assert not [name for name in sys.modules if name.startswith("fakeengine")]
    user = importlib.import_module("fakeengine.user")
    assert user.run(X).tolist() == [[3.0, 6.0]]
    assert (report.hooks[0].state, report.hooks[0].calls) == ("installed", 1)
    assert type(sys.modules["fakeengine.ops"].__spec__.loader).__name__ == "SourceFileLoader"


def test_copies_that_were_imported_by_value_before_are_replaced_too(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    user = importlib.import_module("fakeengine.user")
    report = plug(monkeypatch)
    assert user.run(X).tolist() == [[3.0, 6.0]]
    assert report.hooks[0].calls == 1


def test_a_binding_hook_leaves_the_definition_alone(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    plug(monkeypatch, hook(target="fakeengine.user:apply", everywhere=False))
    user = importlib.import_module("fakeengine.user")
    assert user.run(X).tolist() == [[3.0, 6.0]]
    assert sys.modules["fakeengine.ops"].post(X, torch.empty_like(X)).tolist() == [[2.0, 4.0]]


def test_a_method_is_replaced(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    factory = lambda original: lambda self, x, *, scale=1.0: original(self, x, scale=scale) + 1  # noqa: E731
    plug(monkeypatch, hook(target="fakeengine.ops:Layer.forward", parameters=("self", "x", "scale"), factory=factory))
    layer = importlib.import_module("fakeengine.ops").Layer()
    assert layer.forward(X, scale=5.0).tolist() == [[6.0, 11.0]]


def test_declining_runs_the_engines_op_and_is_counted(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch)
    result = importlib.import_module("fakeengine.user").run(torch.ones(5, 1))
    assert result.tolist() == [[2.0]] * 5
    assert (report.hooks[0].calls, report.hooks[0].declined) == (0, {"5 rows": 1})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameters": ("x",)}, "signature (x, out), expected (x)"),
        ({"target": "fakeengine.ops:gone"}, "has no attribute 'gone'"),
        ({"target": "fakeengine.ops:Layer.gone"}, "has no attribute 'gone'"),
    ],
)
def test_what_does_not_fit_is_skipped_with_one_line_and_the_rest_works(
    engine: Any, monkeypatch: Any, capsys: Any, changes: dict[str, Any], reason: str
) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, hook(**changes), hook())
    assert importlib.import_module("fakeengine.user").run(X).tolist() == [[3.0, 6.0]]
    assert report.hooks[0].state == "skipped" and reason in report.hooks[0].reason
    assert len([line for line in capsys.readouterr().err.splitlines() if "keeps the engine's own op" in line]) == 1


def test_strict_raises_for_what_does_not_fit(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS)
    plug(monkeypatch, hook(parameters=("x",)), STRICT="1")
    with pytest.raises(RuntimeError, match=r"fakeengine.ops:post: signature \(x, out\), expected \(x\)"):
        importlib.import_module("fakeengine.ops")


def test_an_unknown_version_is_not_guessed(monkeypatch: Any, capsys: Any) -> None:
    report = install("fakeengine", {"1.0": (hook(),), "2.0": (hook(),)}, version="1.0.1")
    assert report.table is None and not report.hooks
    line = "no table for fakeengine 1.0.1 (known: 1.0, 2.0); nothing is replaced"
    assert capsys.readouterr().err == f"ds4-kernels: {line}\n"


def test_strict_raises_for_an_unknown_version(monkeypatch: Any) -> None:
    monkeypatch.setenv("DS4_KERNELS_STRICT", "1")
    with pytest.raises(RuntimeError, match=r"no table for fakeengine 3\.0"):
        install("fakeengine", {"1.0": (hook(),)}, version="3.0")


def test_a_second_install_changes_nothing(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    first = plug(monkeypatch)
    user = importlib.import_module("fakeengine.user")
    replaced = user.apply
    assert plug(monkeypatch) is first
    assert user.apply is replaced and len(first.hooks) == 1


def test_an_exception_gives_the_op_back_to_the_engine_for_good(engine: Any, monkeypatch: Any, capsys: Any) -> None:
    calls: list[int] = []

    def broken(original: Any) -> Any:
        def post(x: Any, out: Any) -> Any:
            calls.append(1)
            raise IndexError("no such tile")

        return post

    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, hook(factory=broken))
    user = importlib.import_module("fakeengine.user")
    assert [user.run(X).tolist(), user.run(X).tolist()] == [[[2.0, 4.0]]] * 2
    assert len(calls) == 1
    assert (report.hooks[0].state, report.hooks[0].reason) == ("failed", "IndexError: no such tile")
    assert capsys.readouterr().err.count("the engine's own op takes over") == 1


def test_strict_raises_an_exception_of_a_replacement(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    plug(monkeypatch, hook(factory=lambda original: lambda x, out: 1 / 0), STRICT="1")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("fakeengine.user").run(X)


def test_an_op_that_is_not_selected_keeps_the_engines_kernel(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, hook(), OPS="attn,indexer")
    user = importlib.import_module("fakeengine.user")
    assert user.run(X).tolist() == [[2.0, 4.0]]
    assert not hasattr(user.apply, "__ds4_hook__")
    assert (report.hooks[0].state, report.hooks[0].reason) == ("skipped", "not in DS4_KERNELS_OPS=attn,indexer")


@pytest.mark.parametrize(("mode", "state"), [("off", None), ("auto", "installed"), ("force", "installed")])
def test_cpu_tensors_stay_with_the_engine(engine: Any, monkeypatch: Any, mode: str, state: str | None) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, mode=mode)
    assert importlib.import_module("fakeengine.user").run(X).tolist() == [[2.0, 4.0]]
    assert [found.state for found in report.hooks] == ([state] if state else [])
    if state:
        assert (report.hooks[0].inactive, report.hooks[0].reason) == (1, "tensors are not on a CUDA GPU")


@pytest.mark.parametrize(
    ("name", "value"),
    [("DS4_KERNELS", "fast"), ("DS4_KERNELS_OPS", "attention"), ("DS4_KERNELS_SABOTAGE", "mhc:2"),
     ("DS4_KERNELS_SHADOW", "yes")],
)  # fmt: skip
def test_a_bad_setting_steps_back_with_one_line(monkeypatch: Any, capsys: Any, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    report = install("fakeengine", {"1.0": (hook(),)}, version="1.0")
    assert not report.hooks
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("nothing is replaced") and value.partition(":")[0] in lines[0]


def test_a_bad_setting_is_told_of_where_a_harness_looks(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("DS4_KERNELS_REPORT", str(tmp_path))
    monkeypatch.setenv("DS4_KERNELS_OPS", "attention")
    install("fakeengine", {"1.0": (hook(),)}, version="1.0")
    (path,) = tmp_path.iterdir()
    assert "no op or group named 'attention'" in json.loads(path.read_text())["note"]


def test_inside_of_a_replacement_the_selection_is_lifted(engine: Any, monkeypatch: Any) -> None:
    """A hook of one op may be built of several: none of them falls to the reference because it was not named."""
    seen: list[str] = []

    def factory(original: Any) -> Any:
        def post(x: Any, out: Any) -> Any:
            seen.append(ops.choose("mhc_prenorm_gemm", "cpu").reason)
            return out.copy_(x)

        return post

    engine(ops=OPS, user=USER)
    plug(monkeypatch, hook(factory=factory), mode="triton", OPS="mhc_post")
    importlib.import_module("fakeengine.user").run(X)
    assert "DS4_KERNELS_OPS" not in seen[0]
    assert ops.choose("mhc_prenorm_gemm", "cpu").reason == "not in DS4_KERNELS_OPS=mhc_post"


def test_sabotage_scales_our_output_once(engine: Any, monkeypatch: Any) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, SABOTAGE="mhc_post:10")
    assert importlib.import_module("fakeengine.user").run(X).tolist() == [[30.0, 60.0]]
    assert report.hooks[0].sabotaged == 1 and report.document()["sabotage"] == {"mhc_post": 10.0}


def test_torch_compile_traces_the_engines_own_op_and_the_report_counts_it(
    engine: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    engine(ops=OPS, user=USER)
    report = plug(monkeypatch, REPORT=str(tmp_path / "reports"))
    user = importlib.import_module("fakeengine.user")
    graphs: list[str] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module.code)
        return module

    traced = torch.compile(user.run, backend=backend, fullgraph=True)
    for _ in range(3):
        assert traced(X).tolist() == [[2.0, 4.0]]
    (path,) = (tmp_path / "reports").iterdir()
    (told,) = json.loads(path.read_text())["hooks"]
    assert (told["calls"], told["traced"]) == (0, 1)
    assert report.hooks[0].traced == len(graphs) == 1  # the count itself is no reason to trace again


def test_the_report_is_written_by_a_process_that_just_ends(engine: Any, tmp_path: Path) -> None:
    root = engine(ops=OPS, user=USER)
    (root / "plugin.py").write_text(
        "import torch\nfrom ds4_kernels.engines.hook import Hook\nfrom ds4_kernels.engines.hooks import install\n"
        "make = lambda original: lambda x, out: out.copy_(x * 3)\n"
        "install('fakeengine', {'1.0': (Hook('mhc_post', 'fakeengine.ops:post', ('x', 'out'), make),)}, '1.0')\n"
        "from fakeengine.user import run\n"
        "for _ in range(7): run(torch.ones(1, 2))\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    folder = tmp_path / "reports"
    environment = {"DS4_KERNELS": "reference", "DS4_KERNELS_REPORT": str(folder)}
    subprocess.run(
        [sys.executable, "plugin.py"], cwd=root, env={**_environment(), **environment}, check=True, timeout=120
    )
    (path,) = folder.iterdir()
    document = json.loads(path.read_text())
    assert (
        document["schema"] == "ds4-kernels.report/1" and path.name == f"ds4-kernels-fakeengine-{document['pid']}.json"
    )
    assert [(hook["hook"], hook["state"], hook["calls"]) for hook in document["hooks"]] == [
        ("mhc_post@post", "installed", 7)
    ]
    assert document["table"] == "1.0" and document["mode"] == "reference"


def test_a_report_folder_that_cannot_be_written_is_one_line(
    engine: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    engine(ops=OPS, user=USER)
    (tmp_path / "file").write_text("")
    plug(monkeypatch, REPORT=str(tmp_path / "file"))
    assert importlib.import_module("fakeengine.user").run(X).tolist() == [[3.0, 6.0]]
    assert capsys.readouterr().err.count("cannot write") == 1


def _environment() -> dict[str, str]:
    import os

    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
